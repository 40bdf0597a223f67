//! A copy of a data directory as of one commit, made while a node runs on it.
//!
//! Of states it holds those that checkpoints keep; the others are made again from changelogs when they are needed, as after a crash. What can be made again
//! (compiled code, indexes) and what is about this machine (the lock, the socket, calls under way) is left out.

use std::fs;
use std::path::{Path, PathBuf};
use std::sync::{Mutex, PoisonError};

pub use sluice_log::Backup;
use sluice_log::{Error, Log};

use crate::checkpoint::cannot;

/// Says of a folder that it is no whole backup, and may be removed.
const MARK: &str = "unfinished-backup";
/// Files besides the log that belong to a data directory.
const FILES: [&str; 3] = ["tokens.json", "operations.jsonl", "operations.1.jsonl"];
/// What the names of kept states begin with.
const KEPT: &str = "at-";

/// Copies the data directory of a log into a folder, which must not be there. `operating` is held while checkpoints are copied.
///
/// # Errors
/// When the folder is there, or in the data directory, or cannot be written: then nothing of that name is there.
pub(crate) fn backup(log: &Log, operating: &Mutex<()>, to: &Path) -> Result<Backup, Error> {
    let data = log.root();
    let partial = begin(data, to)?;
    let copied = copy(log, operating, &partial).and_then(|backup| {
        let mark = partial.join(MARK);
        fs::remove_file(&mark).map_err(cannot("remove", &mark))?;
        sync(&partial)?;
        #[expect(clippy::disallowed_methods, reason = "a folder that is no part of the log")]
        fs::rename(&partial, to).map_err(cannot("rename", &partial))?;
        sync(folder_of(to))?;
        Ok(backup)
    });
    if copied.is_err() {
        // It says by itself what it is, should this fail, too.
        let _ = fs::remove_dir_all(&partial);
    }
    copied
}

/// The same of a data directory on which no node runs.
///
/// # Errors
/// When the folder is there, or in the data directory, or cannot be written: then nothing of that name is there.
pub fn backup_of(log: &Log, to: &Path) -> Result<Backup, Error> {
    backup(log, &Mutex::default(), to)
}

fn folder_of(path: &Path) -> &Path {
    path.parent().filter(|folder| !folder.as_os_str().is_empty()).unwrap_or(Path::new("."))
}

/// Makes an empty folder beside the one that is wanted.
fn begin(data: &Path, to: &Path) -> Result<PathBuf, Error> {
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
    if partial.exists() {
        if !partial.join(MARK).exists() {
            return refused(&format!("{} is in the way", partial.display()));
        }
        fs::remove_dir_all(&partial).map_err(cannot("remove", &partial))?;
    }
    fs::create_dir(&partial).map_err(cannot("create", &partial))?;
    let mark = partial.join(MARK);
    fs::write(&mark, "").map_err(cannot("write", &mark))?;
    Ok(partial)
}

fn copy(log: &Log, operating: &Mutex<()>, to: &Path) -> Result<Backup, Error> {
    let data = log.root();
    let (mut files, mut bytes) = (0, 0);
    let cut = {
        // What checkpoints need of changelogs is there until the cut keeps it.
        let _operating = operating.lock().unwrap_or_else(PoisonError::into_inner);
        let mut each = |from: &Path, to: &Path| -> Result<(), Error> {
            bytes += copy_file(from, to)?;
            files += 1;
            Ok(())
        };
        copy_folder(&data.join("checkpoints"), &to.join("checkpoints"), &|_| true, &mut each)?;
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
        log.cut()?
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
