//! The command line's side.

use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use axum::body::Body;
use axum::http::{Request, Uri};
use http_body_util::BodyExt;
use hyper::client::conn::http1::{SendRequest, handshake};
use hyper_util::rt::TokioIo;
use rustls::pki_types::ServerName;
use serde::de::DeserializeOwned;
use sluice_event::Batch;
use sluice_log::{Audit, ReadBatch};
use sluice_node::checkpoint::Checkpoint;
use sluice_node::dead::{DeadLetters, Found, LetterId, Selection, Treated, Treatment};
use sluice_node::generations::GenerationInfo;
use sluice_node::operate::{self, Rewind};
use sluice_node::replay::{self, Replay};
use sluice_node::state;
use sluice_node::topics::{Place, TopicDescription};
use sluice_node::{Backup, Status};
use tokio::io::{AsyncRead, AsyncWrite};
use tokio::runtime::Runtime;
use tokio::time::timeout;
use tokio_rustls::TlsConnector;

use crate::auth::{MadeToken, NewToken, TokenInfo};
use crate::events::FLAT;
use crate::problem::Problem;
use crate::socket;
use crate::tcp::DEFAULT_PORT;
use crate::tls;
use crate::wire::{
    BackupRequest, CheckpointRequest, DeadRequest, FileRequest, InForce, Located, NewTopic, NextSequence, Produced,
    RewindRequest, Want, decode_read,
};

/// A connection to a running node. Calls block.
pub struct Client {
    runtime: Runtime,
    target: Target,
    /// `Authorization`.
    shown: Option<String>,
    sender: SendRequest<Body>,
    used: Instant,
}

/// What a client has to get in, and whom it believes.
#[derive(Debug, Clone, Default)]
pub struct Credentials {
    /// A token.
    pub token: Option<String>,
    /// A file with the certificates that are trusted, instead of those that the system trusts.
    pub ca: Option<PathBuf>,
}

/// Where a node is.
enum Target {
    /// The socket of this data directory.
    Socket(PathBuf),
    /// Host and port; with TLS, whom to trust.
    Address(String, u16, Option<TlsConnector>),
}

impl Client {
    /// Connects to the node of a data directory; `None` when none listens.
    ///
    /// # Errors
    /// When one listens and does not answer.
    pub fn connect(data: &Path) -> Result<Option<Self>, Problem> {
        let Ok(stream) = socket::connect(data) else { return Ok(None) };
        let runtime = runtime()?;
        let sender = runtime.block_on(open_local(stream))?;
        Ok(Some(Self { runtime, target: Target::Socket(data.to_owned()), shown: None, sender, used: Instant::now() }))
    }

    /// Connects to the node at a URL: `http://HOST:PORT` or `https://HOST:PORT`.
    ///
    /// # Errors
    /// When it is no such URL, or nobody answers there.
    pub fn connect_to(url: &str, credentials: &Credentials) -> Result<Self, Problem> {
        let what = "write http://HOST:PORT, or https://HOST:PORT";
        let refused = || Problem::bad_request(format!("not a node's URL: {url:?}; {what}"));
        let uri: Uri = url.parse().map_err(|_| refused())?;
        let authority = uri.authority().ok_or_else(refused)?.as_str();
        let host = uri.host().ok_or_else(refused)?;
        let port = match authority.strip_prefix(host) {
            Some("") => DEFAULT_PORT,
            Some(port) => port.strip_prefix(':').and_then(|port| port.parse().ok()).ok_or_else(refused)?,
            None => return Err(refused()),
        };
        if uri.path() != "/" || uri.query().is_some() {
            return Err(refused());
        }
        let tls = match uri.scheme_str() {
            Some("http") => None,
            Some("https") => Some(tls::connector(credentials.ca.as_deref())?),
            _ => return Err(refused()),
        };
        let help = "is a node running there? `sluice run` says where it listens; see its --listen";
        let (runtime, target) = (runtime()?, Target::Address(host.to_owned(), port, tls));
        let sender = runtime.block_on(target.connect()).map_err(|problem| problem.help(help))?;
        let shown = credentials.token.as_ref().map(|token| format!("Bearer {token}"));
        Ok(Self { runtime, target, shown, sender, used: Instant::now() })
    }

    fn call(&mut self, method: &str, path: &str, body: impl Into<Body>) -> Result<Vec<u8>, Problem> {
        self.send(method, path, "application/json", body)
    }

    /// A request whose body, and answer, is of a kind.
    fn send(&mut self, method: &str, path: &str, kind: &str, body: impl Into<Body>) -> Result<Vec<u8>, Problem> {
        /// A node ends connections that stand idle for three times as long.
        const FRESH: Duration = Duration::from_secs(10);
        if self.used.elapsed() > FRESH {
            self.sender = self.runtime.block_on(self.target.connect())?;
        }
        let request = Request::builder().method(method).uri(path).header("host", self.target.host());
        let mut request = request.header("content-type", kind).header("accept", kind);
        if let Some(shown) = &self.shown {
            request = request.header("authorization", shown);
        }
        let request = request.body(body.into());
        let request = request.map_err(|error| Problem::bad_request(error.to_string()))?;
        let answer = self.runtime.block_on(async {
            self.sender.ready().await.map_err(Problem::connection)?;
            let response = self.sender.send_request(request).await.map_err(Problem::connection)?;
            let status = response.status();
            let body = response.into_body().collect().await.map_err(Problem::connection)?.to_bytes();
            if status.is_success() {
                return Ok(body.to_vec());
            }
            let other = |_| Problem::new(status.as_u16(), String::from_utf8_lossy(&body));
            Err(serde_json::from_slice(&body).unwrap_or_else(other))
        });
        self.used = Instant::now();
        answer
    }

    fn json<T: DeserializeOwned>(&mut self, method: &str, path: &str, body: impl Into<Body>) -> Result<T, Problem> {
        serde_json::from_slice(&self.call(method, path, body)?).map_err(Problem::connection)
    }

    /// How the node stands.
    ///
    /// # Errors
    /// What the node says, or the connection.
    pub fn status(&mut self) -> Result<Status, Problem> {
        self.json("GET", "/status", Body::empty())
    }

    /// All topics.
    ///
    /// # Errors
    /// What the node says, or the connection.
    pub fn topics(&mut self) -> Result<Vec<TopicDescription>, Problem> {
        self.json("GET", "/topics", Body::empty())
    }

    /// One topic.
    ///
    /// # Errors
    /// What the node says, or the connection.
    pub fn describe(&mut self, topic: &str) -> Result<TopicDescription, Problem> {
        self.json("GET", &format!("/topics/{}", escaped(topic)), Body::empty())
    }

    /// Makes a topic.
    ///
    /// # Errors
    /// What the node says, or the connection.
    pub fn create(&mut self, topic: &NewTopic) -> Result<TopicDescription, Problem> {
        let body = serde_json::to_vec(topic).map_err(Problem::connection)?;
        self.json("POST", "/topics", body)
    }

    /// Deletes a topic and its events.
    ///
    /// # Errors
    /// What the node says, or the connection.
    pub fn delete_topic(&mut self, topic: &str) -> Result<(), Problem> {
        self.json("DELETE", &format!("/topics/{}", escaped(topic)), Body::empty())
    }

    /// The offset that a place means in a partition.
    ///
    /// # Errors
    /// What the node says, or the connection.
    pub fn locate(&mut self, topic: &str, partition: u32, place: Place) -> Result<u64, Problem> {
        let at = escaped(&place.to_string());
        let path = format!("/topics/{}/partitions/{partition}/offset?at={at}", escaped(topic));
        let located: Located = self.json("GET", &path, Body::empty())?;
        Ok(located.offset)
    }

    /// Has a pipeline pause, resume or drain.
    ///
    /// # Errors
    /// What the node says, or the connection.
    pub fn want(&mut self, pipeline: &str, want: Want) -> Result<(), Problem> {
        let body = serde_json::to_vec(&want).map_err(Problem::connection)?;
        self.json("PUT", &format!("/pipelines/{}/desired", escaped(pipeline)), body)
    }

    /// All checkpoints, the oldest first.
    ///
    /// # Errors
    /// What the node says, or the connection.
    pub fn checkpoints(&mut self) -> Result<Vec<Checkpoint>, Problem> {
        self.json("GET", "/checkpoints", Body::empty())
    }

    /// Makes a checkpoint of a pipeline, or of all.
    ///
    /// # Errors
    /// What the node says, or the connection.
    pub fn make_checkpoint(&mut self, name: &str, pipeline: Option<&str>) -> Result<Checkpoint, Problem> {
        let request = CheckpointRequest { name: name.to_owned(), pipeline: pipeline.map(str::to_owned) };
        self.json("POST", "/checkpoints", serde_json::to_vec(&request).map_err(Problem::connection)?)
    }

    /// Deletes a checkpoint.
    ///
    /// # Errors
    /// What the node says, or the connection.
    pub fn delete_checkpoint(&mut self, name: &str) -> Result<(), Problem> {
        self.json("DELETE", &format!("/checkpoints/{}", escaped(name)), Body::empty())
    }

    /// Definitions with their plugins that were in force.
    ///
    /// # Errors
    /// What the node says, or the connection.
    pub fn generations(&mut self, pipeline: &str) -> Result<Vec<GenerationInfo>, Problem> {
        self.json("GET", &format!("/pipelines/{}/generations", escaped(pipeline)), Body::empty())
    }

    /// Takes over what stands in a pipeline's file now. The number of the generation in force then.
    ///
    /// # Errors
    /// What the node says, or the connection.
    pub fn reload(&mut self, pipeline: &str) -> Result<u64, Problem> {
        let path = format!("/pipelines/{}/reload", escaped(pipeline));
        self.json("POST", &path, Body::empty()).map(|InForce { generation }| generation)
    }

    /// Puts the last good generation in place of the one in force. Its number.
    ///
    /// # Errors
    /// What the node says, or the connection.
    pub fn roll_back(&mut self, pipeline: &str) -> Result<u64, Problem> {
        let path = format!("/pipelines/{}/rollback", escaped(pipeline));
        self.json("POST", &path, Body::empty()).map(|InForce { generation }| generation)
    }

    /// Looks into what a pipeline keeps.
    ///
    /// # Errors
    /// What the node says, or the connection.
    pub fn look(&mut self, pipeline: &str, query: &state::Query) -> Result<state::Found, Problem> {
        let body = serde_json::to_vec(query).map_err(Problem::connection)?;
        self.json("POST", &format!("/pipelines/{}/state", escaped(pipeline)), body)
    }

    /// A pipeline's dead letters, by cause.
    ///
    /// # Errors
    /// What the node says, or the connection.
    pub fn dead_list(&mut self, pipeline: &str) -> Result<DeadLetters, Problem> {
        self.json("GET", &format!("/pipelines/{}/dead", escaped(pipeline)), Body::empty())
    }

    /// Where a dead letter is, and what became of it.
    ///
    /// # Errors
    /// What the node says, or the connection.
    pub fn dead_find(&mut self, pipeline: &str, id: LetterId) -> Result<Found, Problem> {
        self.json("GET", &format!("/pipelines/{}/dead/{id}", escaped(pipeline)), Body::empty())
    }

    /// Does something about dead letters, or says about which that would be.
    ///
    /// # Errors
    /// What the node says, or the connection.
    pub fn dead_treat(
        &mut self,
        pipeline: &str,
        treatment: Treatment,
        selection: &Selection,
        really: bool,
    ) -> Result<Treated, Problem> {
        let request = DeadRequest { selection: selection.clone(), really };
        let body = serde_json::to_vec(&request).map_err(Problem::connection)?;
        self.json("POST", &format!("/pipelines/{}/dead/{treatment}", escaped(pipeline)), body)
    }

    /// Stops a pipeline and forgets its cursors.
    ///
    /// # Errors
    /// What the node says, or the connection.
    pub fn delete_pipeline(&mut self, pipeline: &str) -> Result<(), Problem> {
        self.json("DELETE", &format!("/pipelines/{}", escaped(pipeline)), Body::empty())
    }

    /// Sets a pipeline's cursors anew, or says what that would do.
    ///
    /// # Errors
    /// What the node says, or the connection.
    pub fn rewind(&mut self, pipeline: &str, request: &operate::Request) -> Result<Rewind, Problem> {
        let operate::Request { target, state, into, really } = request;
        let request = RewindRequest { to: target.to_string(), state: *state, into: into.clone(), really: *really };
        let body = serde_json::to_vec(&request).map_err(Problem::connection)?;
        self.json("POST", &format!("/pipelines/{}/rewind", escaped(pipeline)), body)
    }

    /// Writes a checkpoint to a file, whose path is absolute.
    ///
    /// # Errors
    /// What the node says, or the connection.
    pub fn export_checkpoint(&mut self, name: &str, file: &Path) -> Result<Checkpoint, Problem> {
        let body =
            serde_json::to_vec(&FileRequest { file: file.to_owned(), name: None }).map_err(Problem::connection)?;
        self.json("POST", &format!("/checkpoints/{}/export", escaped(name)), body)
    }

    /// Copies the node's data directory into a folder, whose path is absolute.
    ///
    /// # Errors
    /// What the node says, or the connection.
    pub fn backup(&mut self, folder: &Path) -> Result<Backup, Problem> {
        let request = BackupRequest { folder: folder.to_owned() };
        self.json("POST", "/backup", serde_json::to_vec(&request).map_err(Problem::connection)?)
    }

    /// Takes a checkpoint in from a file, whose path is absolute.
    ///
    /// # Errors
    /// What the node says, or the connection.
    pub fn import_checkpoint(&mut self, file: &Path, name: Option<&str>) -> Result<Checkpoint, Problem> {
        let request = FileRequest { file: file.to_owned(), name: name.map(str::to_owned) };
        self.json("POST", "/checkpoint-imports", serde_json::to_vec(&request).map_err(Problem::connection)?)
    }

    /// Runs a range of a pipeline's history once more, aside.
    ///
    /// # Errors
    /// What the node says, or the connection.
    pub fn replay(&mut self, request: &replay::Request) -> Result<Replay, Problem> {
        let body = serde_json::to_vec(request).map_err(Problem::connection)?;
        self.json("POST", &format!("/pipelines/{}/replay", escaped(&request.pipeline)), body)
    }

    /// What the commit log tells of pipelines.
    ///
    /// # Errors
    /// What the node says, or the connection.
    pub fn audit(&mut self) -> Result<Audit, Problem> {
        self.json("GET", "/audit", Body::empty())
    }

    /// All tokens, without their secrets.
    ///
    /// # Errors
    /// What the node says, or the connection.
    pub fn tokens(&mut self) -> Result<Vec<TokenInfo>, Problem> {
        self.json("GET", "/tokens", Body::empty())
    }

    /// Makes a token.
    ///
    /// # Errors
    /// What the node says, or the connection.
    pub fn create_token(&mut self, token: &NewToken) -> Result<MadeToken, Problem> {
        let body = serde_json::to_vec(token).map_err(Problem::connection)?;
        self.json("POST", "/tokens", body)
    }

    /// Ends a token.
    ///
    /// # Errors
    /// What the node says, or the connection.
    pub fn revoke_token(&mut self, name: &str) -> Result<(), Problem> {
        self.json("DELETE", &format!("/tokens/{}", escaped(name)), Body::empty())
    }

    /// Sends events.
    ///
    /// # Errors
    /// What the node says, or the connection: then nobody knows whether they were appended, unless they are numbered.
    pub fn produce(
        &mut self,
        topic: &str,
        partition: Option<u32>,
        batch: &Batch,
        sequence: Option<(&str, u64)>,
    ) -> Result<Produced, Problem> {
        let mut path = format!("/topics/{}/events?count={}", escaped(topic), batch.count());
        if let Some(partition) = partition {
            path += &format!("&partition={partition}");
        }
        if let Some((producer, first)) = sequence {
            path += &format!("&producer={}&first={first}", escaped(producer));
        }
        serde_json::from_slice(&self.send("POST", &path, FLAT, batch.bytes().to_vec())?).map_err(Problem::connection)
    }

    /// Reads events of a partition; waits so many milliseconds for some.
    ///
    /// # Errors
    /// What the node says, or the connection.
    pub fn read(
        &mut self,
        topic: &str,
        partition: u32,
        from: u64,
        max_bytes: usize,
        wait_ms: u64,
    ) -> Result<ReadBatch, Problem> {
        let query = format!("partition={partition}&from={from}&max-bytes={max_bytes}&wait-ms={wait_ms}");
        let path = format!("/topics/{}/events?{query}", escaped(topic));
        decode_read(&self.send("GET", &path, FLAT, Body::empty())?)
    }

    /// The next sequence number of a producer for a topic.
    ///
    /// # Errors
    /// What the node says, or the connection.
    pub fn next_sequence(&mut self, topic: &str, producer: &str) -> Result<u64, Problem> {
        let path = format!("/topics/{}/producers/{}", escaped(topic), escaped(producer));
        let next: NextSequence = self.json("GET", &path, Body::empty())?;
        Ok(next.next)
    }
}

fn runtime() -> Result<Runtime, Problem> {
    tokio::runtime::Builder::new_current_thread().enable_all().build().map_err(Problem::connection)
}

impl Target {
    fn host(&self) -> String {
        match self {
            Self::Socket(_) => "localhost".to_owned(),
            Self::Address(host, port, _) => format!("{host}:{port}"),
        }
    }

    async fn connect(&self) -> Result<SendRequest<Body>, Problem> {
        /// Longer than any network needs to say that nobody is there.
        const PATIENCE: Duration = Duration::from_secs(10);
        match self {
            Self::Socket(data) => {
                let stream = socket::connect(data).map_err(Problem::connection)?;
                open_local(stream).await
            }
            Self::Address(host, port, tls) => {
                let failed = |reason: &dyn std::fmt::Display| Problem::connection(format!("{host}:{port}: {reason}"));
                let address = (host.trim_matches(['[', ']']), *port);
                let stream = timeout(PATIENCE, tokio::net::TcpStream::connect(address)).await;
                let stream = stream.map_err(|_| failed(&"no answer"))?.map_err(|error| failed(&error))?;
                let Some(tls) = tls else { return open(stream).await };
                let name = ServerName::try_from(address.0.to_owned()).map_err(|error| failed(&error))?;
                let stream = timeout(PATIENCE, tls.connect(name, stream)).await.map_err(|_| failed(&"no answer"))?;
                open(stream.map_err(|error| failed(&error))?).await
            }
        }
    }
}

async fn open_local(stream: std::os::unix::net::UnixStream) -> Result<SendRequest<Body>, Problem> {
    open(tokio::net::UnixStream::from_std(stream).map_err(Problem::connection)?).await
}

async fn open<S: AsyncRead + AsyncWrite + Unpin + Send + 'static>(stream: S) -> Result<SendRequest<Body>, Problem> {
    let (sender, connection) = handshake(TokioIo::new(stream)).await.map_err(Problem::connection)?;
    tokio::spawn(connection);
    Ok(sender)
}

/// A name as a part of a path or query.
fn escaped(name: &str) -> String {
    let plain = |byte: u8| byte.is_ascii_alphanumeric() || matches!(byte, b'.' | b'_' | b'-');
    name.bytes().map(|byte| if plain(byte) { char::from(byte).to_string() } else { format!("%{byte:02X}") }).collect()
}
