//! `sluice dead`

use std::process::ExitCode;
use std::time::Duration;

use serde_json::json;
use sluice_node::dead::{Cause, DeadLetters, LetterId, Selection, Treated, Treatment};
use sluice_node::{DeadLetter, PipelineState, brief};

use crate::access::Access;
use crate::args::{Dead, Global, Treat};
use crate::exit::Failure;
use crate::show;

/// How often to look whether all letters were sent.
const LOOK: Duration = Duration::from_millis(100);
/// Longer reasons are cut in the table; `show` tells them whole.
const REASON_CHARS: usize = 80;

pub(crate) fn dead(global: &Global, verb: &Dead) -> Result<ExitCode, Failure> {
    let mut access = Access::open_existing(global)?;
    match verb {
        Dead::List { pipeline } => {
            let told = access.dead_list(pipeline)?;
            show::answer(global, &told, || describe(&told))?;
        }
        Dead::Show { pipeline, id } => show_one(global, &mut access, pipeline, *id)?,
        Dead::Redrive(treat) => redrive(global, &mut access, treat)?,
        Dead::Discard(treat) => {
            let treated = access.dead_treat(&treat.pipeline, Treatment::Discard, &treat.selection()?, treat.yes)?;
            show::answer(global, &treated, || {
                let what = if treated.done { "were discarded" } else { "would be discarded" };
                tell(&treated, what)
            })?;
        }
    }
    Ok(ExitCode::SUCCESS)
}

impl Treat {
    fn selection(&self) -> Result<Selection, Failure> {
        let ids = self.ids.iter().copied().collect();
        let selection =
            Selection { ids, cause: self.cause.clone(), since: self.since, until: self.until, all: self.all };
        match (self.all, selection.narrows()) {
            (false, false) => {
                let failure = Failure::usage("say which dead letters: IDs, --cause, --since, --until, or --all");
                Err(failure.help(format!("`sluice dead list {}` shows them by cause", self.pipeline)))
            }
            (true, true) => Err(Failure::usage("--all goes with no other choice")),
            _ => Ok(selection),
        }
    }
}

fn plural(count: u64, one: &str) -> String {
    if count == 1 { format!("1 {one}") } else { format!("{count} {one}s") }
}

fn table(causes: &[Cause]) -> String {
    let rows: Vec<_> = causes
        .iter()
        .map(|cause| {
            let reason = brief(&cause.reason, REASON_CHARS);
            let Cause { id, stage, kind, count, first, last, example, .. } = cause;
            let [id, stage, kind, example] = [id, stage, kind, example].map(Clone::clone);
            vec![id, count.to_string(), stage, kind, show::time(*first), show::time(*last), example, reason]
        })
        .collect();
    show::table(&["CAUSE", "EVENTS", "STAGE", "KIND", "FIRST", "LAST", "EXAMPLE", "REASON"], &rows)
}

fn describe(told: &DeadLetters) -> String {
    let DeadLetters { pipeline, topic, open, redriven, dead_again, discarded, redriving, causes } = told;
    let mut out = String::new();
    if *open == 0 {
        out.push_str(&format!("pipeline {pipeline} has no open dead letters in topic {topic}\n"));
    } else {
        let (causes_told, events) = (plural(causes.len() as u64, "cause"), plural(*open, "event"));
        out.push_str(&format!("{causes_told}, {events} in topic {topic}\n\n{}", table(causes)));
    }
    if redriven + dead_again + discarded > 0 {
        out.push_str(&format!("\ndealt with: {redriven} redriven, {dead_again} dead again, {discarded} discarded\n"));
    }
    if *redriving > 0 {
        out.push_str(&format!(
            "\n{redriving} of these are to be sent through again: the node that runs the pipeline does it\n"
        ));
    }
    if let Some(cause) = causes.first() {
        out.push_str(&format!(
            "\nhelp: `sluice dead show {pipeline} {}` tells one whole; once the cause is mended, `sluice dead redrive {pipeline} --cause {}`\n\
             sends its events through again, `sluice dead discard` gives them up\n",
            cause.example, cause.id
        ));
    }
    out
}

fn tell(treated: &Treated, what: &str) -> String {
    let events = plural(treated.count, "dead letter");
    let mut out = format!("{events} of pipeline {} {what}\n", treated.pipeline);
    if !treated.causes.is_empty() {
        out.push_str(&format!("\n{}", table(&treated.causes)));
    }
    if !treated.done {
        out.push_str("\nNothing was changed; add --yes to do it.\n");
    }
    out
}

/// Asks for letters to be sent and, beside a node, waits until they are.
fn redrive(global: &Global, access: &mut Access, treat: &Treat) -> Result<(), Failure> {
    let selection = treat.selection()?;
    if !treat.yes || !access.is_node() {
        let treated = access.dead_treat(&treat.pipeline, Treatment::Redrive, &selection, treat.yes)?;
        return show::answer(global, &treated, || {
            let what = if treated.done {
                "will be sent through again when `sluice run` runs it"
            } else {
                "would be sent through it again"
            };
            tell(&treated, what)
        });
    }
    let before = access.dead_list(&treat.pipeline)?;
    let treated = access.dead_treat(&treat.pipeline, Treatment::Redrive, &selection, true)?;
    let told = loop {
        let told = access.dead_list(&treat.pipeline)?;
        if told.redriving == 0 {
            break told;
        }
        let status = access.status()?;
        let stands = status.pipelines.iter().find(|pipeline| pipeline.name == treat.pipeline).filter(|pipeline| {
            !matches!(
                pipeline.state,
                PipelineState::Running | PipelineState::Idle | PipelineState::Waiting | PipelineState::Halted
            )
        });
        if let Some(pipeline) = stands {
            let (name, state) = (&pipeline.name, pipeline.state);
            let value = json!({ "pipeline": name, "count": treated.count, "left": told.redriving, "done": false });
            return show::answer(global, &value, || {
                format!("{} dead letters will be sent when pipeline {name} runs; it is {state}\n", told.redriving)
            });
        }
        #[expect(clippy::disallowed_methods, reason = "asks again after a while")]
        std::thread::sleep(LOOK);
    };
    let (through, again) = (told.redriven - before.redriven, told.dead_again - before.dead_again);
    let value = json!({ "pipeline": treat.pipeline, "count": treated.count, "redriven": through, "dead-again": again, "done": true });
    show::answer(global, &value, || {
        let sent = plural(treated.count, "dead letter");
        let mut out = format!("{sent} sent through pipeline {} again: {through} went through\n", treat.pipeline);
        if again > 0 {
            out.push_str(&format!("{again} died again: `sluice dead list {}` shows why\n", treat.pipeline));
        }
        out
    })
}

fn show_one(global: &Global, access: &mut Access, pipeline: &str, id: LetterId) -> Result<(), Failure> {
    let found = access.dead_find(pipeline, id)?;
    let batch = access.read(&found.topic, id.partition, id.offset, 1, 0)?;
    let event = batch.region().events().next().filter(|_| batch.base_offset == id.offset);
    let event =
        event.ok_or_else(|| Failure::failed(format!("there is no dead letter {id} in topic {}", found.topic)))?;
    let event = event.map_err(|malformed| Failure::failed(malformed.to_string()))?;
    let (letter, headers) = DeadLetter::of(&event)
        .ok_or_else(|| Failure::failed(format!("{} {id} is an event, and no dead letter", found.topic)))?;
    let headers = show::headers(headers.iter().copied());
    let value = json!({
        "id": id.to_string(), "mark": found.mark, "letter": letter, "timestamp": event.timestamp(),
        "key": event.key().map(show::bytes), "value": show::bytes(event.value()), "headers": headers,
    });
    show::answer(global, &value, || {
        let mark = found.mark.map_or_else(|| "open".to_owned(), |mark| mark.to_string());
        let times = plural(letter.attempts.into(), "time");
        let mut out = format!(
            "dead letter {id} of pipeline {pipeline}: {mark}\n\n{}\n\nevent:    {}/{} offset {}\ntried:    {times}, given up {}\nstage:    {}, plugin {}\n",
            indented(&format!("{}: {}", letter.kind, letter.reason)),
            letter.topic,
            letter.partition,
            letter.offset,
            show::time(letter.time),
            letter.stage,
            letter.plugin.chars().take(12).collect::<String>(),
        );
        if let Some(again) = &letter.again {
            out.push_str(&format!("again:    it was dead letter {again} before\n"));
        }
        for function in &letter.backtrace {
            out.push_str(&format!("in:       {function}\n"));
        }
        out.push_str(&format!("key:      {}\ntime:     {}\n", value["key"], show::time(event.timestamp())));
        for header in &headers {
            out.push_str(&format!("header:   {header}\n"));
        }
        out.push_str(&format!("value:    {}\n", value["value"]));
        out
    })
}

fn indented(text: &str) -> String {
    text.lines().map(|line| format!("  {line}")).collect::<Vec<_>>().join("\n")
}
