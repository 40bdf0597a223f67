//! J1 to J3 as SmartModules in Fluvio's engine alone, one thread: lines of a file become records, a thousand at a time, and what comes of them lines of another;
//! without Fluvio's log. A line of standard input names a job, the answer is the number of its outputs. Arguments: folder of modules, of inputs, of outputs.

use std::fs::File;
use std::io::{BufRead, BufReader, BufWriter, Write};

use anyhow::{Context, Result, anyhow, bail};
use fluvio_protocol::record::{Record, RecordData};
use fluvio_smartengine::{SmartEngine, SmartModuleChainBuilder, SmartModuleConfig};
use fluvio_smartmodule::SMARTMODULE_TIMESTAMPS_VERSION;
use fluvio_smartmodule::dataplane::smartmodule::SmartModuleInput;

const BATCH: usize = 1000;

fn main() -> Result<()> {
    let arguments: Vec<String> = std::env::args().skip(1).collect();
    let [modules, inputs, outputs] = &arguments[..] else { bail!("MODULES INPUTS OUTPUTS") };
    let engine = SmartEngine::new();
    println!("ready");
    for (run, job) in std::io::stdin().lock().lines().enumerate() {
        let job = job?;
        let wasm = std::fs::read(format!("{modules}/{job}.wasm")).with_context(|| format!("the module of {job}"))?;
        let mut builder = SmartModuleChainBuilder::default();
        let config = SmartModuleConfig::builder().smartmodule_names(vec![job.clone()]).build();
        builder.add_smart_module(config.map_err(|error| anyhow!("{error}"))?, wasm);
        let mut chain = builder.initialize(&engine)?;
        let mut out = BufWriter::with_capacity(1 << 20, File::create(format!("{outputs}/run-{run}"))?);
        let (mut records, mut count) = (Vec::with_capacity(BATCH), 0);
        let mut process = |records: &mut Vec<Record>| -> Result<u64> {
            let input = SmartModuleInput::try_from_records(std::mem::take(records), SMARTMODULE_TIMESTAMPS_VERSION)?;
            let made = chain.process(input)?;
            if let Some(error) = made.error {
                bail!("{error}");
            }
            for record in &made.successes {
                out.write_all(record.value.as_ref())?;
                out.write_all(b"\n")?;
            }
            Ok(made.successes.len() as u64)
        };
        let mut files: Vec<_> = std::fs::read_dir(format!("{inputs}/{job}"))?.flatten().map(|file| file.path()).collect();
        files.sort();
        for file in files {
            for line in BufReader::with_capacity(1 << 20, File::open(file)?).split(b'\n') {
                let line = line?;
                let record = match line.iter().position(|byte| *byte == b'\t') {
                    Some(tab) => Record::new_key_value(line[..tab].to_vec(), line[tab + 1..].to_vec()),
                    None => Record::new(RecordData::from(line)),
                };
                records.push(record);
                if records.len() == BATCH {
                    count += process(&mut records)?;
                }
            }
        }
        if !records.is_empty() {
            count += process(&mut records)?;
        }
        println!("outputs {count}");
    }
    Ok(())
}
