//! WASI 0.2 with nothing in it, for components of tools whose runtimes ask for it: no files, no sockets, no arguments, no environment.
//!
//! As the adapter of preview 1 (`wasi/adapter.wat`): what is printed goes to the plugin's log, the clock goes on by what is slept and a nanosecond whenever it
//! is looked at, and random numbers are the same in every instance, for a replay is to come to the same.

use wasmtime::component::types::{self, ComponentItem};
use wasmtime::component::{ComponentType, Lift, Linker, LinkerInstance, Lower, Resource, ResourceType, Val};
use wasmtime::{Engine, StoreContextMut, bail};

use crate::instance::Data;

/// Random bytes that are handed out at once.
const MAX_RANDOM: u64 = 64 << 10;
/// What an output stream says that it takes at once.
const ROOM: u64 = 64 << 10;

/// The interface of WASI 0.2 that the name of an import means, such as `io/streams`.
pub(crate) fn interface_of(import: &str) -> Option<&str> {
    let (interface, version) = import.strip_prefix("wasi:")?.split_once('@')?;
    version.starts_with("0.2.").then_some(interface)
}

/// What an instance has of it.
#[derive(Debug)]
pub(crate) struct Nothing {
    /// Nanoseconds; some runtimes take zero for a clock that is broken.
    clock: u64,
    random: u64,
}

impl Default for Nothing {
    fn default() -> Self {
        Self { clock: 1_000_000_000, random: 0x9e37_79b9_7f4a_7c15 }
    }
}

impl Nothing {
    fn look(&mut self) -> u64 {
        self.clock = self.clock.saturating_add(1);
        self.clock
    }

    /// Xorshift.
    fn draw(&mut self) -> u64 {
        self.random ^= self.random << 13;
        self.random ^= self.random >> 7;
        self.random ^= self.random << 17;
        self.random
    }

    fn bytes(&mut self, length: u64) -> wasmtime::Result<Vec<u8>> {
        if length > MAX_RANDOM {
            bail!("{length} random bytes at once; a plugin gets at most {MAX_RANDOM}");
        }
        Ok((0..length).map(|_| self.draw() as u8).collect())
    }
}

/// Links what a component imports of WASI 0.2. Tells the first import that is not there, as `wasi:INTERFACE@VERSION#FUNCTION`, if any.
pub(crate) fn link(
    linker: &mut Linker<Data>,
    component: &types::Component,
    engine: &Engine,
) -> wasmtime::Result<Option<String>> {
    for (name, import) in component.imports(engine) {
        let (Some(interface), ComponentItem::ComponentInstance(import)) = (interface_of(name), import.ty) else {
            continue;
        };
        let mut linked = linker.instance(name)?;
        for (part, export) in import.exports(engine) {
            let there = match export.ty {
                ComponentItem::ComponentFunc(_) => function(&mut linked, interface, part)?,
                ComponentItem::Resource(_) => resource(&mut linked, part)?,
                ComponentItem::Type(_) => true,
                _ => false,
            };
            if !there {
                return Ok(Some(format!("{name}#{part}")));
            }
        }
    }
    Ok(None)
}

/// Whether a component asks for any of it.
pub(crate) fn is_wanted(imports: &[String]) -> bool {
    imports.iter().any(|import| interface_of(import).is_some())
}

struct InputStream;
struct OutputStream;
struct Pollable;
/// Nothing fails with more than a word, so there never is one.
struct Fault;
struct Network;
/// There never is one of these: no function makes any.
struct Never<const KIND: u8>;

/// The words of a stream that is no use.
#[derive(ComponentType, Lift, Lower)]
#[component(variant)]
enum StreamError {
    #[component(name = "last-operation-failed")]
    Failed(Resource<Fault>),
    #[component(name = "closed")]
    Closed,
}

#[derive(ComponentType, Lift, Lower)]
#[component(record)]
struct Datetime {
    seconds: u64,
    nanoseconds: u32,
}

type Here<'a> = StoreContextMut<'a, Data>;

fn resource(linker: &mut LinkerInstance<'_, Data>, name: &str) -> wasmtime::Result<bool> {
    let ty = match name {
        "input-stream" => ResourceType::host::<InputStream>(),
        "output-stream" => ResourceType::host::<OutputStream>(),
        "pollable" => ResourceType::host::<Pollable>(),
        "error" => ResourceType::host::<Fault>(),
        "network" => ResourceType::host::<Network>(),
        "descriptor" => ResourceType::host::<Never<0>>(),
        "directory-entry-stream" => ResourceType::host::<Never<1>>(),
        "terminal-input" => ResourceType::host::<Never<2>>(),
        "terminal-output" => ResourceType::host::<Never<3>>(),
        "tcp-socket" => ResourceType::host::<Never<4>>(),
        "udp-socket" => ResourceType::host::<Never<5>>(),
        "incoming-datagram-stream" => ResourceType::host::<Never<6>>(),
        "outgoing-datagram-stream" => ResourceType::host::<Never<7>>(),
        "resolve-address-stream" => ResourceType::host::<Never<8>>(),
        _ => return Ok(false),
    };
    linker.resource(name, ty, |_, _| Ok(()))?;
    Ok(true)
}

/// Links a function, if there is one of this name.
fn function(linker: &mut LinkerInstance<'_, Data>, interface: &str, name: &str) -> wasmtime::Result<bool> {
    let linked = match (interface, name) {
        ("cli/environment", "get-environment") => {
            linker.func_wrap(name, |_: Here<'_>, ()| Ok((Vec::<(String, String)>::new(),)))
        }
        ("cli/environment", "get-arguments") => linker.func_wrap(name, |_: Here<'_>, ()| Ok((Vec::<String>::new(),))),
        ("cli/environment", "initial-cwd") => linker.func_wrap(name, |_: Here<'_>, ()| Ok((None::<String>,))),
        ("filesystem/preopens", "get-directories") => {
            linker.func_wrap(name, |_: Here<'_>, ()| Ok((Vec::<(Resource<Never<0>>, String)>::new(),)))
        }
        ("cli/terminal-stdin", "get-terminal-stdin") => {
            linker.func_wrap(name, |_: Here<'_>, ()| Ok((None::<Resource<Never<2>>>,)))
        }
        ("cli/terminal-stdout", "get-terminal-stdout") | ("cli/terminal-stderr", "get-terminal-stderr") => {
            linker.func_wrap(name, |_: Here<'_>, ()| Ok((None::<Resource<Never<3>>>,)))
        }
        ("cli/exit", "exit") => linker.func_wrap(name, |_: Here<'_>, (_,): (Result<(), ()>,)| ended()),
        ("cli/exit", "exit-with-code") => linker.func_wrap(name, |_: Here<'_>, (_,): (u8,)| ended()),
        ("cli/stdin", "get-stdin") => {
            linker.func_wrap(name, |_: Here<'_>, ()| Ok((Resource::<InputStream>::new_own(0),)))
        }
        ("cli/stdout", "get-stdout") | ("cli/stderr", "get-stderr") => {
            linker.func_wrap(name, |_: Here<'_>, ()| Ok((Resource::<OutputStream>::new_own(0),)))
        }
        ("clocks/monotonic-clock" | "clocks/wall-clock" | "io/poll", _) => return time(linker, interface, name),
        ("random/random", "get-random-bytes") | ("random/insecure", "get-insecure-random-bytes") => linker
            .func_wrap(name, |mut store: Here<'_>, (length,): (u64,)| Ok((store.data_mut().wasi.bytes(length)?,))),
        ("random/random", "get-random-u64") | ("random/insecure", "get-insecure-random-u64") => {
            linker.func_wrap(name, |mut store: Here<'_>, ()| Ok((store.data_mut().wasi.draw(),)))
        }
        ("random/insecure-seed", "insecure-seed") => linker.func_wrap(name, |mut store: Here<'_>, ()| {
            let wasi = &mut store.data_mut().wasi;
            Ok(((wasi.draw(), wasi.draw()),))
        }),
        ("io/streams", _) => return stream(linker, name),
        ("sockets/instance-network", "instance-network") => {
            linker.func_wrap(name, |_: Here<'_>, ()| Ok((Resource::<Network>::new_own(0),)))
        }
        ("sockets/tcp-create-socket", "create-tcp-socket")
        | ("sockets/udp-create-socket", "create-udp-socket")
        | ("sockets/ip-name-lookup", "resolve-addresses") => linker.func_new(name, |mut store, _, given, results| {
            for value in given {
                // What was lent is given back: nobody else does.
                if let Val::Resource(lent) = value {
                    lent.resource_drop(&mut store)?;
                }
            }
            results.fill(Val::Result(Err(Some(Box::new(Val::Enum("access-denied".to_owned()))))));
            Ok(())
        }),
        ("io/error", "[method]error.to-debug-string") | ("filesystem/types", "filesystem-error-code") => {
            never(linker, name)
        }
        ("filesystem/types" | "sockets/tcp" | "sockets/udp" | "sockets/ip-name-lookup", _)
            if name.starts_with("[method]") =>
        {
            never(linker, name)
        }
        _ => return Ok(false),
    };
    linked.map(|()| true)
}

/// Who ends the process ends the instance.
fn ended() -> wasmtime::Result<()> {
    bail!("it ended its process, and a plugin has none: what fails is to be told with a failure")
}

/// A method of what nobody can have.
fn never(linker: &mut LinkerInstance<'_, Data>, name: &str) -> wasmtime::Result<()> {
    linker.func_new(name, |_, _, _, _| bail!("there are no files and no sockets for plugins"))
}

/// Clocks, and waiting. Whatever is waited for has come.
fn time(linker: &mut LinkerInstance<'_, Data>, interface: &str, name: &str) -> wasmtime::Result<bool> {
    let pollable = || Ok((Resource::<Pollable>::new_own(0),));
    let date = |clock: u64| {
        let (seconds, nanoseconds) = (clock / 1_000_000_000, (clock % 1_000_000_000) as u32);
        Ok((Datetime { seconds, nanoseconds },))
    };
    let linked = match (interface, name) {
        ("clocks/monotonic-clock", "now") => {
            linker.func_wrap(name, |mut store: Here<'_>, ()| Ok((store.data_mut().wasi.look(),)))
        }
        ("clocks/monotonic-clock", "resolution") => linker.func_wrap(name, |_: Here<'_>, ()| Ok((1_u64,))),
        ("clocks/monotonic-clock", "subscribe-instant") => {
            linker.func_wrap(name, move |mut store: Here<'_>, (when,): (u64,)| {
                let wasi = &mut store.data_mut().wasi;
                wasi.clock = wasi.clock.max(when);
                pollable()
            })
        }
        ("clocks/monotonic-clock", "subscribe-duration") => {
            linker.func_wrap(name, move |mut store: Here<'_>, (time,): (u64,)| {
                let wasi = &mut store.data_mut().wasi;
                wasi.clock = wasi.clock.saturating_add(time);
                pollable()
            })
        }
        ("clocks/wall-clock", "now") => {
            linker.func_wrap(name, move |mut store: Here<'_>, ()| date(store.data_mut().wasi.look()))
        }
        ("clocks/wall-clock", "resolution") => linker.func_wrap(name, move |_: Here<'_>, ()| date(1)),
        ("io/poll", "[method]pollable.ready") => {
            linker.func_wrap(name, |_: Here<'_>, (_,): (Resource<Pollable>,)| Ok((true,)))
        }
        ("io/poll", "[method]pollable.block") => {
            linker.func_wrap(name, |_: Here<'_>, (_,): (Resource<Pollable>,)| Ok(()))
        }
        ("io/poll", "poll") => linker.func_wrap(name, |_: Here<'_>, (all,): (Vec<Resource<Pollable>>,)| {
            if all.is_empty() {
                bail!("it waits for nothing");
            }
            Ok(((0..all.len() as u32).collect::<Vec<u32>>(),))
        }),
        _ => return Ok(false),
    };
    linked.map(|()| true)
}

/// Streams: nothing to read, and what is written is printed.
fn stream(linker: &mut LinkerInstance<'_, Data>, name: &str) -> wasmtime::Result<bool> {
    type In = Resource<InputStream>;
    type Out = Resource<OutputStream>;
    type Written = (Result<(), StreamError>,);
    let linked =
        match name {
            "[method]input-stream.read" | "[method]input-stream.blocking-read" => linker
                .func_wrap(name, |_: Here<'_>, _: (In, u64)| Ok((Err::<Vec<u8>, StreamError>(StreamError::Closed),))),
            "[method]input-stream.skip" | "[method]input-stream.blocking-skip" => {
                linker.func_wrap(name, |_: Here<'_>, _: (In, u64)| Ok((Err::<u64, StreamError>(StreamError::Closed),)))
            }
            "[method]output-stream.splice" | "[method]output-stream.blocking-splice" => linker
                .func_wrap(name, |_: Here<'_>, _: (Out, In, u64)| Ok((Err::<u64, StreamError>(StreamError::Closed),))),
            "[method]input-stream.subscribe" => {
                linker.func_wrap(name, |_: Here<'_>, _: (In,)| Ok((Resource::<Pollable>::new_own(0),)))
            }
            "[method]output-stream.subscribe" => {
                linker.func_wrap(name, |_: Here<'_>, _: (Out,)| Ok((Resource::<Pollable>::new_own(0),)))
            }
            "[method]output-stream.check-write" => {
                linker.func_wrap(name, |_: Here<'_>, _: (Out,)| Ok((Ok::<u64, StreamError>(ROOM),)))
            }
            "[method]output-stream.write" | "[method]output-stream.blocking-write-and-flush" => {
                linker.func_wrap(name, |mut store: Here<'_>, (_, text): (Out, Vec<u8>)| {
                    store.data_mut().print(&text);
                    Ok::<Written, _>((Ok(()),))
                })
            }
            "[method]output-stream.flush" | "[method]output-stream.blocking-flush" => {
                linker.func_wrap(name, |_: Here<'_>, _: (Out,)| Ok::<Written, _>((Ok(()),)))
            }
            "[method]output-stream.write-zeroes" | "[method]output-stream.blocking-write-zeroes-and-flush" => {
                linker.func_wrap(name, |_: Here<'_>, _: (Out, u64)| Ok::<Written, _>((Ok(()),)))
            }
            _ => return Ok(false),
        };
    linked.map(|()| true)
}
