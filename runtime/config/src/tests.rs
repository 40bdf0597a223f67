use std::path::Path;

use crate::{Pipeline, check_together};

fn rendered(text: &str) -> String {
    let found = Pipeline::parse(Path::new("pipelines/late.toml"), text).unwrap_err();
    found.iter().map(|diagnostic| diagnostic.render(false)).collect::<Vec<_>>().join("\n\n")
}

const GOOD: &str =
    "name = \"late\"\n[source]\ntopics = [\"flights\"]\n[[stage]]\nplugin = \"../plugins/late-flights\"\n";

#[test]
fn the_smallest_definition_is_enough() {
    let pipeline = Pipeline::parse(Path::new("pipelines/late.toml"), GOOD).unwrap();
    assert_eq!(pipeline.stage.plugin, Path::new("pipelines/../plugins/late-flights"));
    assert_eq!((pipeline.stage.name.as_str(), pipeline.stage.config.as_str()), ("late-flights", "{}"));
}

#[test]
fn a_misspelt_key_is_shown_with_its_line_and_the_right_one() {
    insta::assert_snapshot!(rendered(&GOOD.replace("topics =", "topcis =")), @r#"
    error: unknown field `topcis`
     --> pipelines/late.toml:3:1
      |
    3 | topcis = ["flights"]
      | ^^^^^^
      |
      = help: did you mean `topics`?
    "#);
}

#[test]
fn a_wrong_type_is_shown_with_its_line() {
    insta::assert_snapshot!(rendered(&GOOD.replace("[\"flights\"]", "\"flights\"")), @r#"
    error: invalid type: string "flights"
     --> pipelines/late.toml:3:10
      |
    3 | topics = "flights"
      |          ^^^^^^^^^
      |
      = help: expected a sequence
    "#);
}

#[test]
fn everything_wrong_is_reported_at_once() {
    let text = format!(
        "{GOOD}limits = {{ memory = \"lots\", call-timeout = \"1ms\" }}\n[[sink]]\ntopic = \"flights\"\npartition-by = \"luck\"\n"
    );
    insta::assert_snapshot!(rendered(&text), @r#"
    error: not a size: "lots"; write a whole number and B, KiB, MiB or GiB, such as "64MiB"
     --> pipelines/late.toml:6:21
      |
    6 | limits = { memory = "lots", call-timeout = "1ms" }
      |                     ^^^^^^

    error: call-timeout is out of bounds
     --> pipelines/late.toml:6:44
      |
    6 | limits = { memory = "lots", call-timeout = "1ms" }
      |                                            ^^^^^
      |
      = help: 10ms to 1h

    error: unknown partition-by: "luck"
     --> pipelines/late.toml:9:16
      |
    9 | partition-by = "luck"
      |                ^^^^^^
      |
      = help: write "key", "round-robin" or "source"

    error: the sink is the source: flights
     --> pipelines/late.toml:8:9
      |
    8 | topic = "flights"
      |         ^^^^^^^^^
      |
      = help: write to another topic
    "#);
}

#[test]
fn what_is_not_available_yet_is_refused_by_name() {
    insta::assert_snapshot!(rendered(&format!("delivery = \"at-least-once\"\n{GOOD}")), @r#"
    error: not available yet in this version: delivery at-least-once
     --> pipelines/late.toml:1:12
      |
    1 | delivery = "at-least-once"
      |            ^^^^^^^^^^^^^^^
      |
      = help: leave `delivery` out, or write "exactly-once"
    "#);
}

#[test]
fn pipelines_that_feed_each_other_are_refused() {
    let parse = |name: &str, source: &str, sink: &str| {
        let text = GOOD.replace("\"late\"", &format!("{name:?}")).replace("\"flights\"", &format!("{source:?}"));
        Pipeline::parse(Path::new(name), &format!("{text}[[sink]]\ntopic = {sink:?}\n")).unwrap()
    };
    let (there, back) = (parse("there", "a", "b"), parse("back", "b", "a"));
    assert!(check_together(std::slice::from_ref(&there)).is_ok());
    let found = check_together(&[there, back]).unwrap_err();
    assert!(found[0].message.starts_with("a cycle"), "{}", found[0].message);
}
