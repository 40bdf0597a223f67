//! Whether files have changed: by looking at them, for that works on every file system, and whatever an editor does to save one.

use std::collections::BTreeMap;
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};

/// What tells one state of a file from another: when it was written, its size, which file it is.
type Stamp = (i64, i64, u64, u64);
type Stamps = BTreeMap<PathBuf, Option<Stamp>>;

/// How files were when they were looked at.
#[derive(Debug, Default)]
pub struct Watch {
    /// The last time.
    last: Stamps,
    /// When something was made of them.
    taken: Option<Stamps>,
}

fn stamp(path: &Path) -> Option<Stamp> {
    let found = std::fs::metadata(path).ok()?;
    Some((found.mtime(), found.mtime_nsec(), found.size(), found.ino()))
}

impl Watch {
    /// Whether any of these files is another than it was, and nobody is writing it: it is as it was the last time. So it is at first, once.
    pub fn has_changed(&mut self, files: impl IntoIterator<Item = PathBuf>) -> bool {
        let now: Stamps = files.into_iter().map(|path| (path.clone(), stamp(&path))).collect();
        let is_settled = now == self.last;
        self.last = now;
        let has_changed = is_settled && self.taken.as_ref() != Some(&self.last);
        if has_changed {
            self.taken = Some(self.last.clone());
        }
        has_changed
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_file_counts_once_it_is_as_it_was_a_moment_ago_however_it_came_there() {
        let folder = tempfile::tempdir().unwrap();
        let (file, plugin) = (folder.path().join("p.toml"), folder.path().join("p.wasm"));
        std::fs::write(&file, "1").unwrap();
        let mut watch = Watch::default();
        let mut look = || watch.has_changed([file.clone(), plugin.clone()]);
        assert_eq!([look(), look(), look()], [false, true, false], "at first");
        std::fs::write(&file, "22").unwrap();
        assert!(!look(), "somebody may be writing it");
        std::fs::write(&file, "333").unwrap();
        assert_eq!([look(), look(), look()], [false, true, false]);
        // As editors save: another file in its place, of the same size and time.
        let new = folder.path().join("new");
        std::fs::copy(&file, &new).unwrap();
        let time = std::fs::metadata(&file).unwrap().modified().unwrap();
        std::fs::File::options().write(true).open(&new).unwrap().set_modified(time).unwrap();
        #[expect(clippy::disallowed_methods, reason = "what an editor does")]
        std::fs::rename(&new, &file).unwrap();
        assert_eq!([look(), look(), look()], [false, true, false]);
        std::fs::write(&plugin, "wasm").unwrap();
        assert_eq!([look(), look(), look()], [false, true, false]);
        std::fs::remove_file(&file).unwrap();
        assert_eq!([look(), look(), look()], [false, true, false]);
    }
}
