//! The address on the network.

use std::net::{Ipv4Addr, SocketAddr, TcpListener, ToSocketAddrs};
use std::str::FromStr;
use std::time::Duration;

use rustix::net::sockopt::{set_tcp_nodelay, set_tcp_user_timeout};

/// The port at which a node listens when nothing is said, and that its URL means when it names none.
pub(crate) const DEFAULT_PORT: u16 = 7070;
/// How long what is sent may stay unread: connections keep it for ever otherwise.
const UNREAD: Duration = Duration::from_secs(60);

/// Where a node is to listen.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Listen {
    /// On its socket only.
    Off,
    /// Here, too.
    At(SocketAddr),
}

/// For this machine only.
impl Default for Listen {
    fn default() -> Self {
        Self::At((Ipv4Addr::LOCALHOST, DEFAULT_PORT).into())
    }
}

impl FromStr for Listen {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        if text == "off" {
            return Ok(Self::Off);
        }
        let help = "write ADDRESS:PORT, such as 127.0.0.1:7070, with port 0 for any that is free, or off";
        let mut found = text.to_socket_addrs().map_err(|error| format!("{error}; {help}"))?;
        found.next().map(Self::At).ok_or_else(|| format!("no such address; {help}"))
    }
}

/// Listens on an address.
///
/// # Errors
/// As the operating system says.
pub fn listen(address: SocketAddr) -> std::io::Result<TcpListener> {
    let listener = TcpListener::bind(address)?;
    listener.set_nonblocking(true)?;
    // Those that are accepted have it from here. Who follows gets each event at once.
    set_tcp_nodelay(&listener, true)?;
    set_tcp_user_timeout(&listener, u32::try_from(UNREAD.as_millis()).unwrap_or(u32::MAX))?;
    Ok(listener)
}
