//! What became of every event that pipelines read, from the commit log alone.

use std::collections::BTreeMap;
use std::path::Path;

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};
use sluice_env::Disk;

use crate::catalog::Catalog;
use crate::change::{Change, Input, Step, TopicPartition, decode_commits};
use crate::commit_log::CommitLog;
use crate::directory::Directory;
use crate::error::Error;
use crate::file_header::{FILE_HEADER, FileHeader, Kind, read_whole};
use crate::frame::{FRAME_HEADER, Frame};
use crate::snapshot::Snapshot;

/// What became of the events that one pipeline read from one partition since the audit begins.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "kebab-case")]
pub struct Account {
    /// The pipeline's name.
    pub pipeline: String,
    /// The topic's name, or its id when it was deleted.
    pub topic: String,
    /// The partition.
    pub partition: u32,
    /// Where the cursor stood when the audit begins.
    pub from: u64,
    /// Where it stands.
    pub to: u64,
    /// Events that the cursor moved over.
    pub read: u64,
    /// Of these, events with outputs that are committed.
    pub committed: u64,
    /// Of these, events without any output.
    pub filtered: u64,
    /// Of these, events dead-lettered.
    pub dead: u64,
    /// Of these, events skipped.
    pub skipped: u64,
    /// Of these, events claimed whose outcome never came: lost or, while an attempt is under way, in hand.
    pub lost: u64,
    /// Offsets that were claimed without an outcome, as half-open ranges.
    pub lost_ranges: Vec<(u64, u64)>,
    /// How often the cursor was set anew.
    pub rewinds: u64,
    /// Whether every event is accounted for.
    pub balances: bool,
    /// What does not add up: it should be empty, always.
    pub errors: Vec<String>,
}

/// What the commit log tells.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "kebab-case")]
pub struct Audit {
    /// It reaches back to the commit behind this one; 0 for the very first.
    pub since_seq: u64,
    /// When that was, ms since the epoch; `None` for the very beginning.
    pub since: Option<i64>,
    /// The last commit it tells of.
    pub last_seq: u64,
    /// Per pipeline and partition, by pipeline.
    pub accounts: Vec<Account>,
}

/// Claims of one account that are not settled.
#[derive(Default)]
struct Claims {
    ranges: Vec<(u64, u64)>,
    /// Events that were claimed before the audit begins; their outcomes are no part of it.
    earlier: u64,
}

impl Claims {
    fn claim(&mut self, from: u64, to: u64) {
        match self.ranges.last_mut() {
            // One outcome may settle the end of a claim and the beginning of the next.
            Some(last) if last.1 == from => last.1 = to,
            _ => self.ranges.push((from, to)),
        }
    }

    /// Takes a settled range out of the claims: how many of its events were claimed since the audit begins, or `None` when some
    /// were never claimed.
    fn settle(&mut self, from: u64, to: u64) -> Option<u64> {
        let overlaps = |claim: &(u64, u64)| claim.0 < to && from < claim.1;
        // The newest: after a rewind the same events are claimed again.
        let Some(at) = self.ranges.iter().rposition(overlaps) else {
            self.earlier = self.earlier.checked_sub(to - from)?;
            return Some(0);
        };
        let claim = self.ranges.remove(at);
        let (begin, end) = (claim.0.max(from), claim.1.min(to));
        let rest = [(claim.0, begin), (end, claim.1)].into_iter().filter(|(from, to)| from < to);
        self.ranges.splice(at..at, rest);
        // What lies before was claimed before the audit begins.
        self.earlier = self.earlier.checked_sub((to - from) - (end - begin))?;
        Some(end - begin)
    }
}

#[derive(Default)]
struct Auditor {
    catalog: Catalog,
    accounts: BTreeMap<(u32, TopicPartition), (Account, Claims)>,
}

impl Auditor {
    fn change(&mut self, change: &Change, time: i64) -> Result<(), String> {
        match change {
            Change::Input(input) => {
                let begin = || (Account { from: input.from, to: input.from, ..Account::default() }, Claims::default());
                let (account, open) = self.accounts.entry((input.pipeline, input.source())).or_insert_with(begin);
                account.take(input, open);
            }
            Change::Moved { pipeline, cursors, .. } => {
                for (tp, _, to) in cursors {
                    if let Some((account, _)) = self.accounts.get_mut(&(*pipeline, *tp)) {
                        account.to = *to;
                        account.rewinds += 1;
                    }
                }
            }
            _ => {}
        }
        self.catalog.apply(change, time).map(drop).map_err(|misfit| misfit.0.to_owned())
    }
}

impl Account {
    fn take(&mut self, input: &Input, open: &mut Claims) {
        let events = input.to.saturating_sub(input.from);
        if input.step != Step::Outcome {
            if input.from != self.to {
                self.errors.push(format!("the cursor jumps from {} to {}", self.to, input.from));
            }
            (self.read, self.to) = (self.read + events, input.to);
        }
        match input.step {
            Step::Claim => return open.claim(input.from, input.to),
            // Outputs ahead of the cursor: they count when it moves.
            Step::Outcome if input.to > self.to => return,
            Step::Outcome => match open.settle(input.from, input.to) {
                Some(claimed) if claimed == events => {}
                // It settles claims of the time before, too: what it says of those is no part of this account.
                Some(claimed) => return self.count(input, claimed),
                None => self.errors.push(format!("{}..{} came out without a claim", input.from, input.to)),
            },
            Step::Done => {}
        }
        let told = input.committed + input.filtered + input.dead + input.skipped;
        if told != events {
            self.errors.push(format!("{told} of the {events} events from {} on are told of", input.from));
        }
        self.count(input, u64::MAX);
    }

    /// Counts what became of at most so many of a commit's events.
    fn count(&mut self, input: &Input, at_most: u64) {
        let mut left = at_most;
        let mut part = |events: u64| {
            let taken = events.min(left);
            left -= taken;
            taken
        };
        self.committed += part(input.committed);
        self.filtered += part(input.filtered);
        self.dead += part(input.dead);
        self.skipped += part(input.skipped);
    }
}

/// Reads the commit log from the oldest snapshot on, up to commit `last_seq`.
pub(crate) fn audit(disk: &dyn Disk, root: &Path, last_seq: u64) -> Result<Audit, Error> {
    const TRIES: usize = 3;
    for _ in 0..TRIES {
        match try_audit(disk, root, last_seq) {
            // A snapshot was taken meanwhile, and what was to be read is gone: it begins later now.
            Err(Error::Io { source, .. }) if source.kind() == std::io::ErrorKind::NotFound => {}
            Ok(None) => {}
            Ok(Some(audit)) => return Ok(audit),
            Err(error) => return Err(error),
        }
    }
    Err(Error::Invalid("snapshots are taken faster than the commit log can be read: try again".into()))
}

/// `None` when the commit log does not go back to the snapshot any more.
fn try_audit(disk: &dyn Disk, root: &Path, last_seq: u64) -> Result<Option<Audit>, Error> {
    let dir = Directory::new(root);
    let mut told = Audit::default();
    let mut auditor = Auditor::default();
    let snapshots = Snapshot::list(disk, &dir)?;
    let mut next = 1;
    if let Some(oldest) = snapshots.first() {
        let snapshot = Snapshot::read(disk, &dir, None, *oldest)?;
        (told.since_seq, told.since, told.last_seq) = (snapshot.seq, Some(snapshot.time), snapshot.seq);
        next = snapshot.group + 1;
        for pipeline in snapshot.catalog.pipelines.values() {
            for (tp, cursor) in &pipeline.cursors {
                let account = Account { from: cursor.next, to: cursor.next, ..Account::default() };
                let open = Claims { earlier: cursor.unsettled, ..Claims::default() };
                auditor.accounts.insert((pipeline.id, *tp), (account, open));
            }
        }
        auditor.catalog = snapshot.catalog;
    }
    let parts: Vec<u64> = CommitLog::list(disk, &dir)?.into_iter().filter(|first| *first >= next).collect();
    if parts.first() != Some(&next) {
        return Ok(None);
    }
    for first in parts {
        if first != next {
            // A part was put aside and written anew while it was read.
            return Ok(None);
        }
        let path = dir.commit_file(first);
        let file = disk.open(&path, sluice_env::Open::Read).map_err(|error| Error::io("read", &path, error))?;
        let bytes = read_whole(&*file, &path)?;
        let header = FileHeader::parse(&bytes, Kind::CommitLog, &path)?;
        // One that is just being made is empty.
        let Some(header) = header.filter(|header| header.first == first) else { continue };
        let mut position = FILE_HEADER as usize;
        while let Some(frame) = bytes.get(position..).and_then(|bytes| Frame::parse(bytes, header.salt, true)) {
            let records = &bytes[position + FRAME_HEADER..][..frame.record_bytes];
            let damaged = |what: &str| Error::damaged(&path, position as u64, what);
            for (seq, changes) in decode_commits(records).map_err(|_| damaged("malformed records"))? {
                if seq > last_seq {
                    break;
                }
                told.last_seq = seq;
                for change in &changes {
                    auditor.change(change, frame.time).map_err(|what| damaged(&what))?;
                }
            }
            position += frame.length().next_multiple_of(8);
            next = frame.group + 1;
        }
    }
    let Auditor { catalog, accounts } = auditor;
    for ((pipeline, tp), (mut account, open)) in accounts {
        // A deleted pipeline took its account along.
        let Some(pipeline) = catalog.pipelines.get(&pipeline) else { continue };
        let topic = catalog.topics.get(&tp.topic).map(|topic| topic.name.clone());
        account.pipeline.clone_from(&pipeline.name);
        (account.topic, account.partition) = (topic.unwrap_or_else(|| format!("id {}", tp.topic)), tp.partition);
        account.lost = open.ranges.iter().map(|(from, to)| to - from).sum();
        account.lost_ranges = open.ranges;
        let outcomes = account.committed + account.filtered + account.dead + account.skipped + account.lost;
        account.balances = account.read == outcomes && account.errors.is_empty();
        told.accounts.push(account);
    }
    told.accounts.sort_by(|a, b| (&a.pipeline, &a.topic, a.partition).cmp(&(&b.pipeline, &b.topic, b.partition)));
    Ok(Some(told))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn outcomes_settle_claims_however_they_are_cut() {
        let mut claims = Claims { ranges: Vec::new(), earlier: 5 };
        claims.claim(10, 20);
        claims.claim(20, 30);
        assert_eq!(claims.settle(8, 12), Some(2));
        assert_eq!(claims.settle(12, 25), Some(13));
        assert_eq!((claims.ranges.clone(), claims.earlier), (vec![(25, 30)], 3));
        // A rewind: the same events are claimed again, and those before stay lost.
        claims.claim(0, 40);
        assert_eq!(claims.settle(20, 30), Some(10));
        assert_eq!(claims.ranges, [(25, 30), (0, 20), (30, 40)]);
        assert_eq!(claims.settle(100, 104), None);
    }
}
