//! What somebody may do.

use std::fmt;
use std::str::FromStr;

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

/// Names of topics: `*` stands for any characters, or none.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Pattern(String);

impl Pattern {
    /// Whether a topic is meant.
    pub fn matches(&self, topic: &str) -> bool {
        let mut parts = self.0.split('*');
        let first = parts.next().unwrap_or_default();
        let Some(mut rest) = topic.strip_prefix(first) else { return false };
        let Some(last) = parts.next_back() else { return rest.is_empty() };
        for part in parts {
            // The earliest place leaves most for what follows.
            let Some((_, behind)) = rest.split_once(part) else { return false };
            rest = behind;
        }
        rest.ends_with(last)
    }
}

/// One thing that a token is good for.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(try_from = "String", into = "String")]
#[schemars(with = "String")]
pub enum Scope {
    /// Appending to these topics.
    Produce(Pattern),
    /// Reading these topics.
    Read(Pattern),
    /// Seeing how the node, its topics and its pipelines stand, without what is in them.
    Observe,
    /// Looking into pipelines, and having them do things.
    Operate,
    /// Everything.
    Admin,
}

impl FromStr for Scope {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        let pattern = |pattern: &str| {
            let good = |c: char| c.is_ascii_alphanumeric() || matches!(c, '.' | '_' | '-' | '*');
            let is_pattern = (1..=255).contains(&pattern.len()) && pattern.chars().all(good);
            let what = || format!("{pattern:?} names no topics; write a topic, with `*` for any characters");
            is_pattern.then(|| Pattern(pattern.to_owned())).ok_or_else(what)
        };
        match text.split_once(':') {
            Some(("produce", topics)) => Ok(Self::Produce(pattern(topics)?)),
            Some(("read", topics)) => Ok(Self::Read(pattern(topics)?)),
            None if text == "observe" => Ok(Self::Observe),
            None if text == "operate" => Ok(Self::Operate),
            None if text == "admin" => Ok(Self::Admin),
            _ => Err(format!("no scope: {text:?}; there are produce:TOPICS, read:TOPICS, observe, operate and admin")),
        }
    }
}

impl TryFrom<String> for Scope {
    type Error = String;

    fn try_from(text: String) -> Result<Self, String> {
        text.parse()
    }
}

impl fmt::Display for Scope {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Produce(Pattern(topics)) => write!(f, "produce:{topics}"),
            Self::Read(Pattern(topics)) => write!(f, "read:{topics}"),
            Self::Observe => f.write_str("observe"),
            Self::Operate => f.write_str("operate"),
            Self::Admin => f.write_str("admin"),
        }
    }
}

impl From<Scope> for String {
    fn from(scope: Scope) -> Self {
        scope.to_string()
    }
}

/// What a request needs its caller to be allowed.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Need {
    /// Anybody may.
    Nothing,
    /// Something, whatever it is.
    Something,
    /// Appending to the topic that the path names.
    Produce,
    /// Reading it.
    Read,
    /// Knowing of it.
    Know,
    Observe,
    Operate,
    Admin,
}

impl Need {
    /// Whether a scope is enough, for a request about a topic.
    pub(crate) fn is_met_by(self, scope: &Scope, topic: &str) -> bool {
        match (self, scope) {
            (Self::Produce | Self::Know, Scope::Produce(topics)) | (Self::Read | Self::Know, Scope::Read(topics)) => {
                topics.matches(topic)
            }
            (Self::Nothing | Self::Something, _)
            | (_, Scope::Admin)
            | (Self::Observe | Self::Know, Scope::Observe | Scope::Operate)
            | (Self::Operate, Scope::Operate) => true,
            _ => false,
        }
    }

    /// The least scope that is enough.
    pub(crate) fn told(self, topic: &str) -> String {
        match self {
            Self::Nothing | Self::Something => "none".to_owned(),
            Self::Produce => format!("produce:{topic}"),
            Self::Read | Self::Know => format!("read:{topic}"),
            Self::Observe => "observe".to_owned(),
            Self::Operate => "operate".to_owned(),
            Self::Admin => "admin".to_owned(),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn patterns_match_what_a_plain_search_finds() {
        /// By trying every length for every `*`.
        fn plainly(pattern: &[u8], topic: &[u8]) -> bool {
            match pattern.split_first() {
                None => topic.is_empty(),
                Some((b'*', rest)) => (0..=topic.len()).any(|skip| plainly(rest, &topic[skip..])),
                Some((byte, rest)) => topic.first() == Some(byte) && plainly(rest, &topic[1..]),
            }
        }
        let words = |letters: &[u8], length: u32| -> Vec<String> {
            let mut words = vec![String::new()];
            let mut all = words.clone();
            for _ in 0..length {
                let longer =
                    |word: &String| letters.iter().map(|l| format!("{word}{}", *l as char)).collect::<Vec<_>>();
                words = words.iter().flat_map(longer).collect();
                all.extend(words.clone());
            }
            all
        };
        for pattern in words(b"ab*", 5) {
            for topic in words(b"ab", 5) {
                let expected = plainly(pattern.as_bytes(), topic.as_bytes());
                assert_eq!(Pattern(pattern.clone()).matches(&topic), expected, "{pattern} {topic}");
            }
        }
    }

    #[test]
    fn scopes_are_read_as_they_are_written_and_nothing_else_is() {
        for text in ["produce:shop", "read:shop.*", "read:*", "observe", "operate", "admin"] {
            assert_eq!(text.parse::<Scope>().unwrap().to_string(), text);
        }
        for text in ["", "all", "admin:x", "produce", "produce:", "read:a b", "read:a/b", "Admin"] {
            assert!(text.parse::<Scope>().is_err(), "{text}");
        }
    }

    #[test]
    fn each_need_is_met_by_its_scopes_alone() {
        use Need::{Admin, Know, Nothing, Observe, Operate, Produce, Read, Something};
        let meets = |scope: &str| -> Vec<Need> {
            let scope: Scope = scope.parse().unwrap();
            let all = [Nothing, Something, Produce, Read, Know, Observe, Operate, Admin];
            all.into_iter().filter(|need| need.is_met_by(&scope, "shop.orders")).collect()
        };
        assert_eq!(meets("produce:shop.*"), [Nothing, Something, Produce, Know]);
        assert_eq!(meets("produce:other"), [Nothing, Something]);
        assert_eq!(meets("read:shop.orders"), [Nothing, Something, Read, Know]);
        assert_eq!(meets("observe"), [Nothing, Something, Know, Observe]);
        assert_eq!(meets("operate"), [Nothing, Something, Know, Observe, Operate]);
        assert_eq!(meets("admin").len(), 8);
    }
}
