//! Compiled code, kept by the digest of the plugin, the engine's version and its settings.
//!
//! Loading compiled code is trusting it, so the cache is private (a folder only its owner may enter) and authenticated: each
//! file begins with an HMAC-SHA-256 under a key that never leaves the folder. A file that does not fit is compiled anew.

use std::io::Write;
use std::os::unix::fs::{DirBuilderExt, OpenOptionsExt};
use std::path::{Path, PathBuf};

use hmac::{Hmac, KeyInit, Mac};
use sha2::Sha256;

type Authenticator = Hmac<Sha256>;
const MAC_BYTES: usize = 32;

/// A folder of compiled code.
#[derive(Debug, Clone)]
pub(crate) struct Cache {
    dir: PathBuf,
    key: [u8; 32],
}

impl Cache {
    /// Opens the cache, making it where there is none.
    pub(crate) fn open(dir: &Path) -> std::io::Result<Self> {
        std::fs::DirBuilder::new().recursive(true).mode(0o700).create(dir)?;
        let path = dir.join("key");
        let key = match std::fs::read(&path) {
            Ok(key) if key.len() == 32 => key,
            _ => {
                let mut rng = [0; 32];
                for word in rng.chunks_exact_mut(8) {
                    word.copy_from_slice(&sluice_env::Rng::from_os()?.next_u64().to_le_bytes());
                }
                write_private(&path, &[&rng])?;
                rng.to_vec()
            }
        };
        let mut bytes = [0; 32];
        bytes.copy_from_slice(&key);
        Ok(Self { dir: dir.to_owned(), key: bytes })
    }

    fn path(&self, name: &str) -> PathBuf {
        self.dir.join(format!("{name}.compiled"))
    }

    fn authenticator(&self, name: &str) -> Option<Authenticator> {
        let mut mac = Authenticator::new_from_slice(&self.key).ok()?;
        // The name is part of it: code of one plugin is not code of another.
        mac.update(name.as_bytes());
        Some(mac)
    }

    /// The code kept under this name, if it is as it was written.
    pub(crate) fn get(&self, name: &str) -> Option<Vec<u8>> {
        let mut bytes = std::fs::read(self.path(name)).ok()?;
        let (expected, code) = bytes.split_at_checked(MAC_BYTES)?;
        let mut mac = self.authenticator(name)?;
        mac.update(code);
        mac.verify_slice(expected).ok()?;
        bytes.drain(..MAC_BYTES);
        Some(bytes)
    }

    /// Keeps code. A failure costs a compilation later, so it is only logged.
    pub(crate) fn put(&self, name: &str, code: &[u8]) {
        let Some(mut mac) = self.authenticator(name) else { return };
        mac.update(code);
        let mac = mac.finalize().into_bytes();
        if let Err(error) = write_private(&self.path(name), &[&mac, code]) {
            tracing::warn!(%error, "compiled code was not cached");
        }
    }
}

/// Writes a file whole or not at all, for its owner only.
#[expect(clippy::disallowed_methods, reason = "a cache: what a crash leaves of it is checked when it is read")]
fn write_private(path: &Path, parts: &[&[u8]]) -> std::io::Result<()> {
    let new = path.with_extension("new");
    let mut file = std::fs::File::options().write(true).create(true).truncate(true).mode(0o600).open(&new)?;
    parts.iter().try_for_each(|part| file.write_all(part))?;
    std::fs::rename(&new, path)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_was_changed_or_renamed_is_not_loaded() {
        let dir = tempfile::tempdir().unwrap();
        let cache = Cache::open(dir.path()).unwrap();
        cache.put("a", b"code");
        assert_eq!(Cache::open(dir.path()).unwrap().get("a").as_deref(), Some(&b"code"[..]));
        std::fs::copy(cache.path("a"), cache.path("b")).unwrap();
        assert_eq!(cache.get("b"), None);
        let mut bytes = std::fs::read(cache.path("a")).unwrap();
        *bytes.last_mut().unwrap() ^= 1;
        std::fs::write(cache.path("a"), bytes).unwrap();
        assert_eq!(cache.get("a"), None);
        std::fs::write(cache.path("a"), b"short").unwrap();
        assert_eq!(cache.get("a"), None);
    }
}
