//! Small files of a data directory besides the log: each is there whole, or as it was before.

use std::fs;
use std::io::Write;
use std::path::Path;

use sluice_log::Error;

use crate::checkpoint::cannot;

/// Writes a file, so that after a crash it has all of this or what it had.
pub(crate) fn write_whole(path: &Path, bytes: &[u8]) -> Result<(), Error> {
    let folder = path.parent().unwrap_or(Path::new("."));
    fs::create_dir_all(folder).map_err(cannot("create", folder))?;
    let new = path.with_added_extension("new");
    let written = fs::File::create(&new).and_then(|mut file| file.write_all(bytes).and_then(|()| file.sync_all()));
    #[expect(clippy::disallowed_methods, reason = "a file that is no part of the log")]
    written.and_then(|()| fs::rename(&new, path)).map_err(cannot("write", path))?;
    sync(folder)
}

/// Has a file or folder on the device.
pub(crate) fn sync(path: &Path) -> Result<(), Error> {
    #[expect(clippy::disallowed_methods, reason = "a file that is no part of the log")]
    let file = fs::File::open(path).map_err(cannot("open", path))?;
    file.sync_all().map_err(cannot("sync", path))
}
