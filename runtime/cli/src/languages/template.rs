//! What a new plugin begins with: a consumer, a fixture, and ten lines about it.

use std::path::Path;

use super::{Language, sdk};
use crate::exit::Failure;

const FIXTURE: &str = r#"# What the consumer is to do. `sluice test` runs it.
plugin = "."

[[case]]
name = "an event comes out in capitals, under its key"

[[case.given]]
key = "greeting"
value = "hello"

[[case.expect]]
key = "greeting"
value = "HELLO"

[[case]]
name = "one that is empty fails, and the others go through"

[[case.given]]
value = ""

[[case.given]]
value = "fine"

[[case.expect]]
value = "FINE"

[[case.failure]]
event = 1
reason = "it is empty"
"#;

const RUST: &str = r#"//! Writes events in capitals.

use sluice_sdk::{Event, Failure, Outputs, Result, consumer};

fn process(event: &Event, out: &mut Outputs) -> Result {
    if event.value().is_empty() {
        return Err(Failure::permanent("it is empty"));
    }
    out.send(event.key(), event.value().to_ascii_uppercase())
}

consumer!(process);
"#;

const GO: &str = r#"// Writes events in capitals.
package main

import (
	"bytes"
	"errors"

	"sluicegate.dev/sluice"
)

func init() { sluice.Export(sluice.Func(process)) }

func main() {}

func process(event *sluice.Event, out *sluice.Outputs) error {
	if len(event.Value) == 0 {
		return errors.New("it is empty")
	}
	return out.Send(event.Key, bytes.ToUpper(event.Value))
}
"#;

const PYTHON: &str = r#""""Writes events in capitals."""

from sluice import Event, Failure, Outputs


class Consumer:
    def process(self, event: Event, out: Outputs) -> None:
        if not event.value:
            raise Failure("it is empty")
        out.send(event.key, event.value.upper())
"#;

const JS: &str = r"// Writes events in capitals.
import { Failure, decode, encode } from 'sluice';

/** @type {import('sluice').Consumer} */
export default {
  process(event, out) {
    if (event.value.length === 0) throw new Failure('it is empty');
    out.send(event.key, encode(decode(event.value).toUpperCase()));
  },
};
";

const TS: &str = r"// Writes events in capitals.
import { type Consumer, Failure, decode, encode } from 'sluice';

const consumer: Consumer = {
  process(event, out) {
    if (event.value.length === 0) throw new Failure('it is empty');
    out.send(event.key, encode(decode(event.value).toUpperCase()));
  },
};

export default consumer;
";

const C: &str = r#"// Writes events in capitals.
#include "sluice.h"

static int process(const sluice_event *event) {
    if (event->value.len == 0) return sluice_fail(SLUICE_PERMANENT, "it is empty");
    uint8_t *capitals = (uint8_t *)sluice_scratch(event->value.len);
    for (uint32_t at = 0; at < event->value.len; at++) {
        uint8_t c = event->value.data[at];
        capitals[at] = c >= 'a' && c <= 'z' ? (uint8_t)(c - 32) : c;
    }
    sluice_bytes value = {capitals, event->value.len};
    return sluice_send(event->key, value);
}

SLUICE_CONSUMER(.process = process)
"#;

const ZIG: &str = r#"//! Writes events in capitals.
const sluice = @import("sluice");

fn process(event: *const sluice.Event, out: *sluice.Outputs) sluice.Error!void {
    if (event.value.len == 0) return sluice.fail(.permanent, "it is empty", .{});
    const capitals = sluice.scratch(event.value.len);
    for (event.value, capitals) |c, *capital| capital.* = if (c >= 'a' and c <= 'z') c - 32 else c;
    try out.send(event.key, capitals);
}

comptime {
    sluice.consumer(.{ .process = process });
}
"#;

const ASSEMBLYSCRIPT: &str = r#"// Writes events in capitals.
import { Consumer, Event, Outputs, fail, start } from "../build/sdk/sluice";

class Capitals extends Consumer {
  process(event: Event, out: Outputs): bool {
    if (event.value.length == 0) return fail("it is empty");
    const capitals = event.value.slice();
    for (let at = 0; at < capitals.length; at++) {
      if (capitals[at] >= 97 && capitals[at] <= 122) capitals[at] -= 32;
    }
    return out.send(event.key, capitals);
  }
}

start(new Capitals());

export * from "../build/sdk/exports";
"#;

/// Writes a plugin of this name.
pub(super) fn write(dir: &Path, name: &str, language: Language) -> Result<(), Failure> {
    let (source, text) = match language {
        Language::Rust => ("src/lib.rs", RUST),
        Language::Go => ("consumer.go", GO),
        Language::Python => ("src/consumer.py", PYTHON),
        Language::Js => ("src/consumer.js", JS),
        Language::Ts => ("src/consumer.ts", TS),
        Language::C => ("src/consumer.c", C),
        Language::Cpp => ("src/consumer.cpp", C),
        Language::Zig => ("src/consumer.zig", ZIG),
        Language::Assemblyscript => ("assembly/consumer.ts", ASSEMBLYSCRIPT),
    };
    let readme = format!(
        "# {name}\n\nA Sluicegate consumer: `{source}`.\n\n    sluice plugin build --setup      # makes build/{name}.wasm\n    sluice test .                    # runs {name}.test.toml\n    sluice plugin run . --events FILE    # shows what it makes of the lines of a file\n\nA pipeline names this folder: `[[stage]]` with `plugin = \"PATH/TO/{name}\"`. `sluice dev` builds it whenever it is saved.\nWhat it can do is told in `build/sdk`.\n"
    );
    let put = |file: &str, text: &str| -> Result<(), Failure> {
        let path = dir.join(file);
        std::fs::create_dir_all(path.parent().unwrap_or(dir))?;
        std::fs::write(&path, text)?;
        Ok(())
    };
    put(source, text)?;
    put(&format!("{name}.test.toml"), FIXTURE)?;
    put("README.md", &readme)?;
    put(".gitignore", "build/\ntarget/\n.toolchains/\n")?;
    match language {
        Language::Rust => put(
            "Cargo.toml",
            &format!(
                "[package]\nname = \"{name}\"\nversion = \"0.1.0\"\nedition = \"2024\"\n\n[lib]\ncrate-type = [\"cdylib\", \"rlib\"]\n\n[dependencies]\nsluice-sdk = {{ path = \"build/sdk/sluice-sdk\" }}\n\n[profile.release]\nlto = true\npanic = \"abort\"\nstrip = \"debuginfo\"\n\n[workspace]\n"
            ),
        )?,
        Language::Go => put(
            "go.mod",
            &format!(
                "module {name}\n\ngo 1.24\n\nrequire sluicegate.dev/sluice v0.0.0\n\nreplace sluicegate.dev/sluice => ./build/sdk\n"
            ),
        )?,
        Language::Js | Language::Ts => put(
            "jsconfig.json",
            "{\n  \"compilerOptions\": { \"target\": \"es2022\", \"module\": \"esnext\", \"checkJs\": true, \"strict\": true, \"paths\": { \"sluice\": [\"./build/sdk/sluice.d.ts\"] } },\n  \"include\": [\"src\"]\n}\n",
        )?,
        _ => {}
    }
    sdk::write(language, &dir.join("build/sdk"))
}
