//! Keys of a store: the partition's stages keep theirs apart.

/// The largest key that a consumer may use.
pub const MAX_KEY_BYTES: usize = 4096;
/// The longest name of a stage that has state.
pub const MAX_STAGE_NAME: usize = 200;

/// What the store knows of itself stands before everything of the stages.
pub(crate) const META: &[u8] = &[0];
pub(crate) const STATE: u8 = 1;
/// Timers by their keys, and by their times: see `timer.rs`.
pub(crate) const TIMER: u8 = 3;
pub(crate) const INDEX: u8 = 4;
/// Writers to the source: see `writer.rs`.
pub(crate) const WRITER: u8 = 5;

/// What the values of a stage stand under when they are of a version: the stage's name and, but for version 0, `@` and the version, which no
/// name of a stage has. So values of different versions never meet.
pub fn space_of(stage: &str, version: u32) -> String {
    if version == 0 { stage.to_owned() } else { format!("{stage}@{version}") }
}

/// The stage and the version of a space.
pub fn stage_and_version(space: &str) -> (&str, u32) {
    let parts = space.rsplit_once('@').and_then(|(stage, version)| Some((stage, version.parse().ok()?)));
    parts.unwrap_or((space, 0))
}

/// What all keys of a space begin with: u8 1, u8 length of its name, the name.
pub fn prefix_of(space: &str) -> Vec<u8> {
    debug_assert!(stage_and_version(space).0.len() <= MAX_STAGE_NAME);
    let mut prefix = Vec::with_capacity(2 + space.len());
    prefix.push(STATE);
    prefix.push(space.len() as u8);
    prefix.extend_from_slice(space.as_bytes());
    prefix
}

/// The key in the store of a stage's key, given what all of its keys begin with.
pub fn full_key(prefix: &[u8], key: &[u8]) -> Vec<u8> {
    [prefix, key].concat()
}

/// The name of the space and the stage's own key, of a key in the store under which a stage keeps a value; for a timer, the stage's name and its key.
pub fn space_and_key(full: &[u8]) -> Option<(&str, &[u8])> {
    let (head, rest) = full.split_first_chunk::<2>()?;
    let (name, key) = rest.split_at_checked(usize::from(head[1]))?;
    matches!(head[0], STATE | TIMER).then_some((std::str::from_utf8(name).ok()?, key))
}

/// The first key behind all that begin with `prefix`; `None` when there is none.
pub(crate) fn end_of(prefix: &[u8]) -> Option<Vec<u8>> {
    let last = prefix.iter().rposition(|byte| *byte < u8::MAX)?;
    let mut end = prefix[..=last].to_vec();
    end[last] += 1;
    Some(end)
}

const EXPIRY: u8 = 2;

/// Where it stands that a key expires: u8 2, the time (ms since the epoch, big-endian, its sign turned so that times sort), the full key.
pub(crate) fn expiry_key(time: i64, full: &[u8]) -> Box<[u8]> {
    [&[EXPIRY][..], &sortable(time), full].concat().into()
}

/// What all expiries begin with, and the first key behind those up to a time.
pub(crate) fn expiries_until(time: i64) -> (Vec<u8>, Vec<u8>) {
    (vec![EXPIRY], [&[EXPIRY][..], &sortable(time.saturating_add(1))].concat())
}

/// The time and the full key of an expiry.
pub(crate) fn key_of_expiry(key: &[u8]) -> Option<(i64, &[u8])> {
    let (time, full) = key.strip_prefix(&[EXPIRY])?.split_first_chunk()?;
    Some((unsortable(*time), full))
}

const SIGN: u64 = 1 << 63;

/// A time as bytes that sort like it.
pub(crate) fn sortable(time: i64) -> [u8; 8] {
    (time.cast_unsigned() ^ SIGN).to_be_bytes()
}

/// The time of such bytes.
pub(crate) fn unsortable(bytes: [u8; 8]) -> i64 {
    (u64::from_be_bytes(bytes) ^ SIGN).cast_signed()
}
