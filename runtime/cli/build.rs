//! Lists the sources of the Rust SDK, which the program carries along like those of the other languages.

use std::fmt::Write;
use std::path::{Path, PathBuf};

fn main() -> Result<(), Box<dyn std::error::Error>> {
    let project = Path::new(&std::env::var("CARGO_MANIFEST_DIR")?).join("../..").canonicalize()?;
    let mut listed = String::from("&[\n");
    for (folder, name) in [("guest-sdk/rust/src", "sluice-sdk/src"), ("runtime/event/src", "sluice-event/src")] {
        let folder = project.join(folder);
        println!("cargo::rerun-if-changed={}", folder.display());
        let mut left = vec![folder.clone()];
        let mut files: Vec<PathBuf> = Vec::new();
        while let Some(next) = left.pop() {
            for entry in std::fs::read_dir(next)? {
                let path = entry?.path();
                if path.is_dir() { left.push(path) } else { files.push(path) }
            }
        }
        files.sort();
        for file in files {
            let inner = file.strip_prefix(&folder)?.display();
            let (name, file) = (format!("{name}/{inner}"), file.display().to_string());
            writeln!(listed, "    ({name:?}, include_str!({file:?})),")?;
        }
    }
    listed.push_str("]\n");
    std::fs::write(Path::new(&std::env::var("OUT_DIR")?).join("rust_sdk.rs"), listed)?;
    Ok(())
}
