//! A copy of a data directory as of one commit, made while a node runs on it.
//!
//! Of states it holds those that checkpoints keep; the others are made again from changelogs when they are needed, as after a crash. What can be made again
//! (compiled code, indexes) and what is about this machine (the lock, the socket, calls under way) is left out.

use std::fs;
use std::path::{Path, PathBuf};
use std::sync::{Mutex, PoisonError};

use sluice_config::changelog_topic;
use sluice_env::{Clock, SystemClock};
pub use sluice_log::Backup;
use sluice_log::{Error, Log, PipelineInfo};
use sluice_state::SharedState;

use crate::checkpoint::{self, cannot};
use crate::state;

/// Says of a partial folder that it is a backup which was not finished, and may be removed. It is the first thing there and the last that goes: whoever is killed
/// leaves nothing that would be in the way of the next one.
const MARK: &str = "unfinished-backup";
/// Files besides the log that belong to a data directory.
const FILES: [&str; 3] = ["tokens.json", "operations.jsonl", "operations.1.jsonl"];
/// What the names of kept states begin with.
const KEPT: &str = "at-";

/// Copies the data directory of a log into a folder, which must not be there. `operating` is held while checkpoints are copied.
///
/// # Errors
/// When the folder is there, or in the data directory, or cannot be written: then nothing of that name is there.
pub(crate) fn backup(
    log: &Log,
    operating: &Mutex<()>,
    shared: impl Fn(&PipelineInfo, u32) -> Result<SharedState, Error>,
    to: &Path,
) -> Result<Backup, Error> {
    let data = log.root();
    // While it is locked, somebody is at work there.
    let (partial, _lock) = begin(data, to)?;
    let copied = copy(log, operating, shared, &partial).and_then(|backup| {
        sync(&partial)?;
        #[expect(clippy::disallowed_methods, reason = "a folder that is no part of the log")]
        fs::rename(&partial, to).map_err(cannot("rename", &partial))?;
        sync(folder_of(to))?;
        Ok(backup)
    });
    match copied {
        // Under this name it says nothing any more, and does no harm should it stay.
        Ok(_) => drop(fs::remove_file(to.join(MARK))),
        // It says by itself what it is, should this fail, too.
        Err(_) => drop(remove_partial(&partial)),
    }
    copied
}

/// Removes an unfinished backup; its mark last.
fn remove_partial(partial: &Path) -> std::io::Result<()> {
    for entry in fs::read_dir(partial)? {
        let path = entry?.path();
        match path.is_dir() {
            true => fs::remove_dir_all(path)?,
            false if path.ends_with(MARK) => {}
            false => fs::remove_file(path)?,
        }
    }
    fs::remove_dir_all(partial)
}

/// The same of a data directory on which no node runs.
///
/// # Errors
/// When the folder is there, or in the data directory, or cannot be written: then nothing of that name is there.
pub fn backup_of(log: &Log, to: &Path) -> Result<Backup, Error> {
    backup(log, &Mutex::default(), |pipeline, partition| state::bring_up(log, pipeline, partition), to)
}

fn folder_of(path: &Path) -> &Path {
    path.parent().filter(|folder| !folder.as_os_str().is_empty()).unwrap_or(Path::new("."))
}

/// Makes an empty folder beside the one that is wanted, and takes its lock.
fn begin(data: &Path, to: &Path) -> Result<(PathBuf, fs::File), Error> {
    let refused = |what: &str| Err(Error::Invalid(format!("{}: {what}", to.display())));
    if to.exists() {
        return refused("it is there already: name a folder that is not");
    }
    let folder = folder_of(to);
    fs::create_dir_all(folder).map_err(cannot("create", folder))?;
    let real = |path: &Path| fs::canonicalize(path).map_err(cannot("find", path));
    if real(folder)?.starts_with(real(data)?) {
        return refused("it is in the data directory: name a folder elsewhere, best on another disk");
    }
    let partial = to.with_added_extension("partial");
    // Whoever was killed here had not begun; an empty folder is nobody's.
    if partial.exists() && fs::remove_dir(&partial).is_err() {
        #[expect(clippy::disallowed_methods, reason = "a file that is no part of the log")]
        let Ok(left) = fs::File::open(partial.join(MARK)) else {
            return refused(&format!("{} is in the way", partial.display()));
        };
        if left.try_lock().is_err() {
            return refused("another backup is being made there");
        }
        remove_partial(&partial).map_err(cannot("remove", &partial))?;
    }
    fs::create_dir(&partial).map_err(cannot("create", &partial))?;
    let path = partial.join(MARK);
    let mark = fs::File::options().write(true).create_new(true).open(&path).map_err(cannot("write", &path))?;
    match mark.try_lock() {
        Ok(()) => Ok((partial, mark)),
        Err(_) => refused("another backup is being made there"),
    }
}

/// Makes checkpoints of pipelines whose changelogs do not reach back to their beginnings: nothing else in a copy would tell their states. Their names.
fn keep_states(
    log: &Log,
    shared: &impl Fn(&PipelineInfo, u32) -> Result<SharedState, Error>,
) -> Result<Vec<String>, Error> {
    let mut made = Vec::new();
    for pipeline in log.pipelines() {
        let Ok(changelog) = log.topic(&changelog_topic(&pipeline.name)) else { continue };
        let mut begins = (0..changelog.partitions).map(|number| Ok(log.partition(&changelog, number)?.low_mark()));
        if begins.try_fold(false, |cut, low| Ok::<_, Error>(cut || low? > 0))? {
            let name = format!("{}.backup-{}", pipeline.name, SystemClock.now());
            checkpoint::create(log, &SystemClock, shared, &name, Some(&pipeline.name))?;
            made.push(name);
        }
    }
    Ok(made)
}

fn copy(
    log: &Log,
    operating: &Mutex<()>,
    shared: impl Fn(&PipelineInfo, u32) -> Result<SharedState, Error>,
    to: &Path,
) -> Result<Backup, Error> {
    let data = log.root();
    let (mut files, mut bytes) = (0, 0);
    let cut = {
        // What checkpoints need of changelogs is there until the cut keeps it.
        let _operating = operating.lock().unwrap_or_else(PoisonError::into_inner);
        let made = keep_states(log, &shared)?;
        let mut each = |from: &Path, to: &Path| -> Result<(), Error> {
            bytes += copy_file(from, to)?;
            files += 1;
            Ok(())
        };
        for folder in ["checkpoints", "generations", "plugins"] {
            copy_folder(&data.join(folder), &to.join(folder), &|_| true, &mut each)?;
        }
        let is_kept = |path: &Path| {
            let parts = path.strip_prefix(data.join("state")).map(|path| path.components().count());
            let name = path.file_name().map(|name| name.to_string_lossy().into_owned()).unwrap_or_default();
            // PIPELINE-ID/PARTITION/at-NAME
            parts != Ok(3) || name.starts_with(KEPT)
        };
        copy_folder(&data.join("state"), &to.join("state"), &is_kept, &mut each)?;
        for name in FILES {
            if data.join(name).exists() {
                each(&data.join(name), &to.join(name))?;
            }
        }
        let cut = log.cut();
        // Only the copy needs them.
        made.iter().try_for_each(|name| checkpoint::delete(data, name))?;
        cut?
    };
    let backup = log.copy(&cut, to)?;
    Ok(Backup { files: backup.files + files, bytes: backup.bytes + bytes, ..backup })
}

/// Copies what is in a folder, if it is there, but for what is not wanted.
fn copy_folder(
    from: &Path,
    to: &Path,
    wanted: &dyn Fn(&Path) -> bool,
    each: &mut dyn FnMut(&Path, &Path) -> Result<(), Error>,
) -> Result<(), Error> {
    let entries = match fs::read_dir(from) {
        Err(error) if error.kind() == std::io::ErrorKind::NotFound => return Ok(()),
        entries => entries.map_err(cannot("read", from))?,
    };
    fs::create_dir_all(to).map_err(cannot("create", to))?;
    for entry in entries {
        let entry = entry.map_err(cannot("read", from))?;
        let (source, target) = (entry.path(), to.join(entry.file_name()));
        if !wanted(&source) {
            continue;
        }
        if source.is_dir() {
            copy_folder(&source, &target, wanted, each)?;
        } else {
            each(&source, &target)?;
        }
    }
    sync(to)
}

fn copy_file(from: &Path, to: &Path) -> Result<u64, Error> {
    // With its permissions: tokens are their owner's alone.
    let bytes = fs::copy(from, to).map_err(cannot("copy", from))?;
    sync(to)?;
    Ok(bytes)
}

fn sync(path: &Path) -> Result<(), Error> {
    #[expect(clippy::disallowed_methods, reason = "a file that is no part of the log")]
    let file = fs::File::open(path).map_err(cannot("open", path))?;
    file.sync_all().map_err(cannot("sync", path))
}
