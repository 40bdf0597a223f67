//! Tokens: who gets in from the network. Only their hashes are kept.

use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, PoisonError, RwLock};

use base64::Engine;
use base64::prelude::BASE64_URL_SAFE_NO_PAD;
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};
use sha2::{Digest, Sha256};
use sluice_env::Clock;
use subtle::ConstantTimeEq;

use super::Scope;
use crate::problem::Problem;

/// What every token begins with, so that those who look for lost secrets know one.
const PREFIX: &str = "sluice_";
/// Bytes of randomness in a token: nobody guesses it, so that its plain hash tells nothing.
const RANDOM: usize = 32;
/// Tokens of one node, at most: every request with a token looks at all of them.
const MOST: usize = 1000;

/// What is known of a token.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "kebab-case")]
pub struct TokenInfo {
    /// Whose it is.
    pub name: String,
    /// What it is good for.
    pub scopes: Vec<Scope>,
    /// When it was made, ms since the epoch.
    pub created: i64,
    /// When it ends, likewise; none for never.
    pub expires: Option<i64>,
}

/// A token to make.
#[derive(Debug, Clone, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields, rename_all = "kebab-case")]
pub struct NewToken {
    /// Whose it is to be.
    pub name: String,
    /// What it is to be good for.
    pub scopes: Vec<Scope>,
    /// How long, in milliseconds; none for ever.
    #[serde(default)]
    pub lifetime_ms: Option<u64>,
}

/// A token that was made. Nobody can tell it again.
#[derive(Debug, Clone, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "kebab-case")]
pub struct MadeToken {
    /// The secret.
    pub token: String,
    /// What is known of it.
    pub info: TokenInfo,
}

#[derive(Debug, Clone, Serialize, Deserialize)]
struct Entry {
    /// SHA-256 of the token, in hexadecimal.
    hash: String,
    info: TokenInfo,
}

/// The tokens of a data directory, in its file `tokens.json`.
pub struct Tokens {
    path: PathBuf,
    clock: Arc<dyn Clock>,
    entries: RwLock<Vec<Arc<Entry>>>,
    /// One change at a time.
    changing: Mutex<()>,
}

impl Tokens {
    /// Reads the tokens of a data directory.
    ///
    /// # Errors
    /// When the file cannot be read.
    pub fn open(data: &Path, clock: Arc<dyn Clock>) -> Result<Self, Problem> {
        let path = data.join("tokens.json");
        let entries: Vec<Entry> = match std::fs::read(&path) {
            Err(error) if error.kind() == std::io::ErrorKind::NotFound => Vec::new(),
            Err(error) => return Err(Problem::storage(format!("cannot read {}: {error}", path.display()))),
            Ok(bytes) => serde_json::from_slice(&bytes).map_err(|error| {
                let help = "restore it from a copy; or delete it, and make tokens anew";
                Problem::storage(format!("{} holds no tokens: {error}", path.display())).help(help)
            })?,
        };
        let entries = RwLock::new(entries.into_iter().map(Arc::new).collect());
        Ok(Self { path, clock, entries, changing: Mutex::default() })
    }

    fn entries(&self) -> Vec<Arc<Entry>> {
        self.entries.read().unwrap_or_else(PoisonError::into_inner).clone()
    }

    /// All tokens, those that have ended too, by name.
    pub fn list(&self) -> Vec<TokenInfo> {
        let mut tokens: Vec<_> = self.entries().iter().map(|entry| entry.info.clone()).collect();
        tokens.sort_by(|a, b| a.name.cmp(&b.name));
        tokens
    }

    /// Makes a token.
    ///
    /// # Errors
    /// When the name is taken or no name, nothing is allowed by it, or it cannot be kept.
    pub fn create(&self, token: NewToken) -> Result<MadeToken, Problem> {
        let NewToken { name, scopes, lifetime_ms } = token;
        let good = |c: char| c.is_ascii_alphanumeric() || matches!(c, '.' | '_' | '-' | '@');
        if !(1..=100).contains(&name.len()) || !name.chars().all(good) {
            let what = format!("not a name for a token: {name:?}; use 1 to 100 letters, digits, `.`, `_`, `-` and `@`");
            return Err(Problem::bad_request(what));
        }
        if !(1..=100).contains(&scopes.len()) {
            return Err(Problem::bad_request("a token has 1 to 100 scopes, such as read:shop or operate"));
        }
        let mut random = [0; RANDOM];
        rustix::rand::getrandom(&mut random, rustix::rand::GetRandomFlags::empty())
            .map_err(|error| Problem::new(500, format!("the system has no randomness to give: {error}")))?;
        let token = format!("{PREFIX}{}", BASE64_URL_SAFE_NO_PAD.encode(random));
        let created = self.clock.now();
        let expires = lifetime_ms.map(|lifetime| created.saturating_add_unsigned(lifetime));
        let info = TokenInfo { name, scopes, created, expires };
        self.change(|entries| {
            if entries.iter().any(|entry| entry.info.name == info.name) {
                let help = "revoke that one first, or choose another name";
                return Err(Problem::new(409, format!("there is a token {} already", info.name)).help(help));
            }
            if entries.len() >= MOST {
                return Err(Problem::new(409, format!("there are {MOST} tokens")).help("revoke those nobody needs"));
            }
            entries.push(Arc::new(Entry { hash: hash(&token), info: info.clone() }));
            Ok(())
        })?;
        Ok(MadeToken { token, info })
    }

    /// Ends a token.
    ///
    /// # Errors
    /// When there is none of this name, or that cannot be kept.
    pub fn revoke(&self, name: &str) -> Result<(), Problem> {
        self.change(|entries| {
            let before = entries.len();
            entries.retain(|entry| entry.info.name != name);
            let help = "`sluice token list` shows them";
            if entries.len() == before {
                return Err(Problem::new(404, format!("unknown token: {name}")).help(help));
            }
            Ok(())
        })
    }

    /// Changes what there is: first on disk.
    fn change(&self, change: impl FnOnce(&mut Vec<Arc<Entry>>) -> Result<(), Problem>) -> Result<(), Problem> {
        let _changing = self.changing.lock().unwrap_or_else(PoisonError::into_inner);
        let mut entries = self.entries();
        change(&mut entries)?;
        let kept: Vec<&Entry> = entries.iter().map(Arc::as_ref).collect();
        let json = serde_json::to_vec_pretty(&kept).map_err(Problem::connection)?;
        sluice_env::write_whole(&self.path, &json)
            .map_err(|error| Problem::storage(format!("cannot write {}: {error}", self.path.display())))?;
        *self.entries.write().unwrap_or_else(PoisonError::into_inner) = entries;
        Ok(())
    }

    /// The token that this is, unless it has ended.
    pub(crate) fn find(&self, token: &str) -> Option<Token> {
        let hash = hash(token);
        // All are looked at, each in the same time: how long it takes tells nothing of them.
        let found =
            self.entries().into_iter().filter(|entry| entry.hash.as_bytes().ct_eq(hash.as_bytes()).into()).last();
        found.map(Token).filter(|token| !self.has_ended(token))
    }

    fn has_ended(&self, Token(entry): &Token) -> bool {
        entry.info.expires.is_some_and(|expires| expires <= self.clock.now())
    }

    /// Whether a token that was found is still good.
    pub(crate) fn is_good(&self, token: &Token) -> bool {
        let entries = self.entries.read().unwrap_or_else(PoisonError::into_inner);
        entries.iter().any(|entry| Arc::ptr_eq(entry, &token.0)) && !self.has_ended(token)
    }
}

/// A token that somebody has.
#[derive(Debug, Clone)]
pub(crate) struct Token(Arc<Entry>);

impl Token {
    pub(crate) fn info(&self) -> &TokenInfo {
        &self.0.info
    }
}

fn hash(token: &str) -> String {
    Sha256::digest(token).iter().map(|byte| format!("{byte:02x}")).collect()
}

#[cfg(test)]
mod tests {
    use sluice_env::ManualClock;

    use super::*;

    fn new(name: &str) -> NewToken {
        NewToken { name: name.to_owned(), scopes: vec![Scope::Operate], lifetime_ms: Some(1000) }
    }

    #[test]
    fn a_token_is_good_until_it_ends_or_is_revoked_also_after_a_restart() {
        let dir = tempfile::tempdir().unwrap();
        let clock = Arc::new(ManualClock::default());
        let open = || Tokens::open(dir.path(), clock.clone()).unwrap();
        let tokens = open();
        let (a, b) = (tokens.create(new("a")).unwrap(), tokens.create(new("b")).unwrap());
        assert_eq!(tokens.create(new("a")).unwrap_err().status, 409);
        let file = std::fs::read_to_string(dir.path().join("tokens.json")).unwrap();
        assert!(file.contains("\"a\"") && !file.contains(&a.token[PREFIX.len()..]), "the secret is not kept");
        for tokens in [&tokens, &open()] {
            assert_eq!(tokens.find(&a.token).unwrap().info(), &a.info);
            assert_eq!(tokens.find(&b.token).unwrap().info(), &b.info);
            for wrong in ["", PREFIX, &a.token[1..], &format!("{}x", a.token), &hash(&a.token)] {
                assert!(tokens.find(wrong).is_none(), "{wrong}");
            }
        }
        let had = tokens.find(&a.token).unwrap();
        tokens.revoke("a").unwrap();
        assert!(!tokens.is_good(&had) && tokens.find(&a.token).is_none());
        assert_eq!(tokens.revoke("a").unwrap_err().status, 404);
        let had = tokens.find(&b.token).unwrap();
        clock.set(1000);
        assert!(!tokens.is_good(&had) && tokens.find(&b.token).is_none());
        assert_eq!(open().list().len(), 1, "what has ended is still told");
    }
}
