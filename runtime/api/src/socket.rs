//! The socket in a data directory.

use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};

/// A socket's path has to fit 108 bytes.
const MAX_PATH: usize = 100;

fn path(data: &Path) -> PathBuf {
    data.join("sock")
}

/// Calls `with` with a name for the socket that is short enough, whatever the directory's is.
fn with_short_path<T>(data: &Path, with: impl FnOnce(&Path) -> std::io::Result<T>) -> std::io::Result<T> {
    let path = path(data);
    if path.as_os_str().len() <= MAX_PATH {
        return with(&path);
    }
    use std::os::fd::AsRawFd;
    #[expect(clippy::disallowed_methods, reason = "a directory, to name what is in it by its number")]
    let dir = std::fs::File::open(data)?;
    with(&Path::new("/proc/self/fd").join(dir.as_raw_fd().to_string()).join("sock"))
}

/// Binds the socket of a data directory, which the caller must have locked: one that is there is a dead node's.
///
/// # Errors
/// As the operating system says.
pub fn bind(data: &Path) -> std::io::Result<std::os::unix::net::UnixListener> {
    match std::fs::remove_file(path(data)) {
        Err(error) if error.kind() != std::io::ErrorKind::NotFound => return Err(error),
        _ => {}
    }
    let listener = with_short_path(data, |path| std::os::unix::net::UnixListener::bind(path))?;
    std::fs::set_permissions(path(data), std::fs::Permissions::from_mode(0o600))?;
    listener.set_nonblocking(true)?;
    Ok(listener)
}

pub(crate) fn connect(data: &Path) -> std::io::Result<std::os::unix::net::UnixStream> {
    let stream = with_short_path(data, |path| std::os::unix::net::UnixStream::connect(path))?;
    stream.set_nonblocking(true)?;
    Ok(stream)
}

/// Whether a node listens for this data directory.
pub fn is_answering(data: &Path) -> bool {
    connect(data).is_ok()
}
