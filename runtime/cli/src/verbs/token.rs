//! `sluice token`

use std::process::ExitCode;

use sluice_api::{NewToken, TokenInfo};

use crate::access::Access;
use crate::args::{Global, Token};
use crate::exit::Failure;
use crate::show;

pub(crate) fn token(global: &Global, verb: &Token) -> Result<ExitCode, Failure> {
    match verb {
        Token::Create { name, scopes, expires } => {
            let lifetime_ms = expires.map(|age| u64::try_from(age.as_millis()).unwrap_or(u64::MAX));
            let token = NewToken { name: name.clone(), scopes: scopes.clone(), lifetime_ms };
            let made = Access::open(global)?.create_token(token)?;
            show::answer(global, &made, || format!("{}\n", made.token))?;
            if !global.json {
                eprintln!("keep it: nobody can tell it again; `sluice token revoke {name}` ends it");
            }
        }
        Token::List => {
            let tokens = Access::open_existing(global)?.tokens()?;
            show::answer(global, &tokens, || table(&tokens))?;
        }
        Token::Revoke { name } => {
            Access::open_existing(global)?.revoke_token(name)?;
            show::answer(global, &serde_json::json!({ "revoked": name }), || format!("{name} is revoked\n"))?;
        }
    }
    Ok(ExitCode::SUCCESS)
}

fn table(tokens: &[TokenInfo]) -> String {
    if tokens.is_empty() {
        return "no tokens yet: `sluice token create NAME SCOPE` makes one\n".to_owned();
    }
    let row = |token: &TokenInfo| {
        let scopes: Vec<_> = token.scopes.iter().map(ToString::to_string).collect();
        let expires = token.expires.map_or_else(|| "never".to_owned(), show::time);
        vec![token.name.clone(), show::time(token.created), expires, scopes.join(" ")]
    };
    show::table(&["TOKEN", "CREATED", "EXPIRES", "SCOPES"], &tokens.iter().map(row).collect::<Vec<_>>())
}
