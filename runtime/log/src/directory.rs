//! Names of files in a data directory.

use std::path::{Path, PathBuf};

use crate::change::TopicPartition;

/// Where everything is.
#[derive(Debug, Clone)]
pub(crate) struct Directory {
    pub(crate) root: PathBuf,
}

impl Directory {
    pub(crate) fn new(root: &Path) -> Self {
        Self { root: root.to_owned() }
    }

    pub(crate) fn lock(&self) -> PathBuf {
        self.root.join("LOCK")
    }

    pub(crate) fn format(&self) -> PathBuf {
        self.root.join("FORMAT")
    }

    pub(crate) fn commits(&self) -> PathBuf {
        self.root.join("commits")
    }

    pub(crate) fn snapshots(&self) -> PathBuf {
        self.root.join("snapshots")
    }

    /// Space kept for a full disk.
    pub(crate) fn reserve(&self) -> PathBuf {
        self.root.join("reserve")
    }

    pub(crate) fn topic(&self, id: u32) -> PathBuf {
        self.root.join("topics").join(id.to_string())
    }

    /// The part of the commit log that begins with this group.
    pub(crate) fn commit_file(&self, first_group: u64) -> PathBuf {
        self.commits().join(format!("{first_group:020}.commits"))
    }

    /// A part of the commit log that is not needed any more, to be written anew.
    pub(crate) fn spare_commit_file(&self) -> PathBuf {
        self.commits().join("spare")
    }

    /// The snapshot of everything up to this group.
    pub(crate) fn snapshot(&self, group: u64) -> PathBuf {
        self.snapshots().join(format!("{group:020}.snapshot"))
    }

    pub(crate) fn segment(&self, tp: TopicPartition, base_offset: u64) -> PathBuf {
        self.topic(tp.topic).join(format!("{:05}-{base_offset:020}.segment", tp.partition))
    }
}

/// The number at the end of a name's stem: `00012-00000000000000000345.segment` is 345.
pub(crate) fn number(name: &str, extension: &str) -> Option<u64> {
    let stem = name.strip_suffix(extension)?;
    stem.rsplit('-').next()?.parse().ok()
}
