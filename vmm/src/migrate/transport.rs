//! The connection: where it leads, and messages over it with a bound on silence.

// UNSAFETY: takes over the descriptor number an operator names in `fd:N`, and one from accept4(2).
#![allow(unsafe_code)]

use std::fmt;
use std::io::{self, ErrorKind};
use std::net::{TcpListener, TcpStream, ToSocketAddrs};
use std::os::fd::{AsFd, AsRawFd, BorrowedFd, FromRawFd, OwnedFd, RawFd};
use std::os::unix::fs::FileTypeExt;
use std::os::unix::net::{UnixListener, UnixStream};
use std::path::{Path, PathBuf};
use std::str::FromStr;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use nix::fcntl::{FcntlArg, fcntl};
use nix::poll::{PollFd, PollFlags, PollTimeout, poll};
use nix::sys::socket::{self, MsgFlags, setsockopt, sockopt};
use nix::sys::time::TimeVal;
use zerocopy::{FromBytes, FromZeros, IntoBytes};

use super::MigrateError;
use super::format::{BODY_MAX, FormatError, Header, Kind, Preface};

/// Where to connect to, or listen at.
#[derive(Clone, PartialEq, Eq, Debug)]
pub enum Uri {
    /// `unix:PATH`: a stream socket in the file system.
    Unix(PathBuf),
    /// `tcp:HOST:PORT`.
    Tcp(String),
    /// `fd:N`: a connected stream socket this process inherited; for an incoming migration a
    /// listening one will do as well. The number is used once and closed.
    Fd(RawFd),
}

impl FromStr for Uri {
    type Err = MigrateError;

    fn from_str(text: &str) -> Result<Self, MigrateError> {
        let parsed = match text.split_once(':') {
            Some(("unix", path)) if !path.is_empty() => Some(Self::Unix(path.into())),
            Some(("tcp", address)) => {
                let port = address.rsplit_once(':').map(|(_, port)| port.parse::<u16>());
                matches!(port, Some(Ok(_))).then(|| Self::Tcp(address.to_owned()))
            }
            // 0 to 2 are the standard streams, whatever the operator wrote.
            Some(("fd", number)) => number.parse().ok().filter(|fd| *fd > 2).map(Self::Fd),
            _ => None,
        };
        parsed.ok_or_else(|| MigrateError::Uri(text.to_owned()))
    }
}

impl fmt::Display for Uri {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Unix(path) => write!(f, "unix:{}", path.display()),
            Self::Tcp(address) => write!(f, "tcp:{address}"),
            Self::Fd(number) => write!(f, "fd:{number}"),
        }
    }
}

/// A connected stream socket on which each send and receive makes progress within a bound.
#[derive(Debug)]
pub(crate) struct Channel {
    socket: OwnedFd,
    timeout: Duration,
    sent: AtomicU64,
}

/// A listening socket, or one that is connected already.
#[derive(Debug)]
pub(crate) enum Listener {
    Unix(UnixListener, PathBuf),
    Tcp(TcpListener),
    Inherited(OwnedFd),
    Connected(OwnedFd),
}

impl Listener {
    /// Starts listening. A stale Unix socket that nobody serves is replaced.
    pub(crate) fn bind(uri: &Uri) -> Result<Self, MigrateError> {
        let failed = |source| MigrateError::Io { doing: format!("listening at {uri}"), source };
        match uri {
            Uri::Unix(path) => {
                let listener = UnixListener::bind(path).or_else(|error| {
                    if error.kind() == ErrorKind::AddrInUse && is_stale(path) {
                        std::fs::remove_file(path)?;
                        return UnixListener::bind(path);
                    }
                    Err(error)
                });
                Ok(Self::Unix(listener.map_err(failed)?, path.clone()))
            }
            Uri::Tcp(address) => Ok(Self::Tcp(TcpListener::bind(address).map_err(failed)?)),
            Uri::Fd(number) => {
                let socket = inherit(*number).map_err(failed)?;
                let listening = socket::getsockopt(&socket, sockopt::AcceptConn);
                Ok(match listening.map_err(|errno| failed(errno.into()))? {
                    true => Self::Inherited(socket),
                    false => Self::Connected(socket),
                })
            }
        }
    }

    /// The port of a TCP listener: what `tcp:HOST:0` became.
    pub(crate) fn port(&self) -> Option<u16> {
        match self {
            Self::Tcp(listener) => Some(listener.local_addr().ok()?.port()),
            Self::Unix(..) | Self::Inherited(_) | Self::Connected(_) => None,
        }
    }

    /// Waits for the one connection, however long that takes, and stops listening.
    pub(crate) fn accept(self, timeout: Duration) -> Result<Channel, MigrateError> {
        let failed =
            |source| MigrateError::Io { doing: "accepting a migration".to_owned(), source };
        let socket = match self {
            Self::Unix(listener, path) => {
                let accepted = listener.accept();
                let _ = std::fs::remove_file(path);
                OwnedFd::from(accepted.map_err(failed)?.0)
            }
            Self::Tcp(listener) => OwnedFd::from(listener.accept().map_err(failed)?.0),
            Self::Inherited(listener) => accept(&listener).map_err(failed)?,
            Self::Connected(socket) => socket,
        };
        Channel::new(socket, timeout).map_err(failed)
    }
}

impl Channel {
    /// Connects to a destination.
    pub(crate) fn connect(uri: &Uri, timeout: Duration) -> Result<Self, MigrateError> {
        let connected = match uri {
            // A full backlog makes connect(2) wait: for a moment, not for ever.
            Uri::Unix(path) => connect_unix(path, timeout),
            Uri::Tcp(address) => connect_tcp(address, timeout),
            Uri::Fd(number) => inherit(*number),
        };
        connected
            .and_then(|socket| Self::new(socket, timeout))
            .map_err(|source| MigrateError::Io { doing: format!("connecting to {uri}"), source })
    }

    pub(crate) fn new(socket: OwnedFd, timeout: Duration) -> io::Result<Self> {
        // An inherited socket may be non-blocking; the bounds below need it blocking.
        let flags = nix::fcntl::OFlag::from_bits_retain(fcntl(&socket, FcntlArg::F_GETFL)?);
        fcntl(&socket, FcntlArg::F_SETFL(flags - nix::fcntl::OFlag::O_NONBLOCK))?;
        set_timeouts(&socket, timeout)?;
        // Go and its kin are small and urgent. Not a TCP socket: nothing to set.
        let _ = setsockopt(&socket, sockopt::TcpNoDelay, &true);
        Ok(Self { socket, timeout, sent: AtomicU64::new(0) })
    }

    /// The socket, for sending guest pages. Report what it took to [`Self::count`].
    pub(crate) fn socket(&self) -> BorrowedFd<'_> {
        self.socket.as_fd()
    }

    /// Bytes sent so far.
    pub(crate) fn sent(&self) -> u64 {
        self.sent.load(Ordering::Relaxed)
    }

    pub(crate) fn count(&self, bytes: usize) {
        self.sent.fetch_add(bytes as u64, Ordering::Relaxed);
    }

    /// Sends a message whole.
    pub(crate) fn send(
        &self,
        kind: Kind,
        body: &[u8],
        doing: &'static str,
    ) -> Result<(), MigrateError> {
        let mut message = Header::new(kind, body)?.as_bytes().to_vec();
        message.extend_from_slice(body);
        self.send_bytes(&message, doing)
    }

    /// Sends bytes.
    pub(crate) fn send_bytes(
        &self,
        mut bytes: &[u8],
        doing: &'static str,
    ) -> Result<(), MigrateError> {
        while !bytes.is_empty() {
            match self.send_some(bytes) {
                Ok(sent) => bytes = &bytes[sent..],
                Err(error) if error.kind() == ErrorKind::Interrupted => {}
                Err(error) => return Err(self.failure(error, doing)),
            }
        }
        Ok(())
    }

    /// Sends a prefix of `bytes`: one system call.
    pub(crate) fn send_some(&self, bytes: &[u8]) -> io::Result<usize> {
        let sent = socket::send(self.socket.as_raw_fd(), bytes, MsgFlags::MSG_NOSIGNAL)?;
        self.count(sent);
        Ok(sent)
    }

    /// Receives the next message. Its body is checked and at most [`BODY_MAX`] long. `Failed` comes
    /// back as an error: it may arrive at any time.
    pub(crate) fn receive(&self, doing: &'static str) -> Result<(Kind, Vec<u8>), MigrateError> {
        let mut header = Header::new_zeroed();
        self.receive_bytes(header.as_mut_bytes(), doing)?;
        let (kind, length) = header.check()?;
        let mut body = vec![0; length];
        self.receive_bytes(&mut body, doing)?;
        header.check_body(&body)?;
        match kind {
            Kind::Failed => {
                Err(MigrateError::PeerFailed(String::from_utf8_lossy(&body).into_owned()))
            }
            _ => Ok((kind, body)),
        }
    }

    /// Receives the one message that may come now.
    pub(crate) fn expect(
        &self,
        expected: Kind,
        doing: &'static str,
    ) -> Result<Vec<u8>, MigrateError> {
        match self.receive(doing)? {
            (kind, body) if kind == expected => Ok(body),
            (got, _) => Err(MigrateError::Unexpected { got, doing }),
        }
    }

    /// Receives and checks the peer's preface. A stranger is noticed by its first bytes, without
    /// waiting for 16 of them.
    pub(crate) fn receive_preface(&self) -> Result<(), MigrateError> {
        let doing = "waiting for the start of the stream";
        let mut preface = [0; size_of::<Preface>()];
        let mut filled = 0;
        while filled < preface.len() {
            filled += self.receive_some(&mut preface[filled..], doing)?;
            let known = filled.min(super::format::MAGIC.len());
            if preface[..known] != super::format::MAGIC[..known] {
                return Err(FormatError::Magic.into());
            }
        }
        let preface = Preface::read_from_bytes(&preface).map_err(|_| FormatError::Magic)?;
        Ok(preface.check()?)
    }

    /// Receives exactly as many bytes as fit.
    pub(crate) fn receive_bytes(
        &self,
        buffer: &mut [u8],
        doing: &'static str,
    ) -> Result<(), MigrateError> {
        let mut filled = 0;
        while filled < buffer.len() {
            filled += self.receive_some(&mut buffer[filled..], doing)?;
        }
        Ok(())
    }

    fn receive_some(&self, buffer: &mut [u8], doing: &'static str) -> Result<usize, MigrateError> {
        loop {
            match socket::recv(self.socket.as_raw_fd(), buffer, MsgFlags::empty()) {
                Ok(0) => return Err(MigrateError::Closed(doing)),
                Ok(received) => return Ok(received),
                Err(nix::errno::Errno::EINTR) => {}
                Err(errno) => return Err(self.failure(errno.into(), doing)),
            }
        }
    }

    /// Whether the peer said something, or went away.
    pub(crate) fn has_word(&self, wait: Duration) -> bool {
        let mut poll_fd = [PollFd::new(self.socket.as_fd(), PollFlags::POLLIN)];
        let wait = PollTimeout::try_from(wait).unwrap_or(PollTimeout::ZERO);
        poll(&mut poll_fd, wait).is_ok_and(|ready| ready > 0)
    }

    /// Makes both ends see the end of the stream, even in the middle of a call on another thread.
    pub(crate) fn shut_down(&self) {
        let _ = socket::shutdown(self.socket.as_raw_fd(), socket::Shutdown::Both);
    }

    /// Tells the peer why we give up, as far as it listens. Then waits for it to close, bounded:
    /// closing a TCP socket with unread data would destroy the message on its way.
    pub(crate) fn give_up(&self, why: &str) {
        let mut end = why.len().min(BODY_MAX / 2);
        while !why.is_char_boundary(end) {
            end -= 1;
        }
        let told = self.send(Kind::Failed, &why.as_bytes()[..end], "giving up");
        let _ = socket::shutdown(self.socket.as_raw_fd(), socket::Shutdown::Write);
        let patience = self.timeout.min(Duration::from_secs(1));
        if told.is_ok() && set_timeouts(&self.socket, patience).is_ok() {
            let started = std::time::Instant::now();
            let mut sink = [0; 4096];
            while started.elapsed() < patience && self.receive_some(&mut sink, "closing").is_ok() {}
        }
    }

    /// What a failed system call on this socket means.
    pub(crate) fn failure(&self, error: io::Error, doing: &'static str) -> MigrateError {
        match error.kind() {
            ErrorKind::WouldBlock => MigrateError::Timeout { doing, limit: self.timeout },
            ErrorKind::BrokenPipe | ErrorKind::ConnectionReset | ErrorKind::NotConnected => {
                MigrateError::Closed(doing)
            }
            _ => MigrateError::Io { doing: doing.to_owned(), source: error },
        }
    }
}

fn connect_unix(path: &Path, timeout: Duration) -> io::Result<OwnedFd> {
    use socket::{AddressFamily, SockFlag, SockType, UnixAddr};
    let kind = SockType::Stream;
    let socket = socket::socket(AddressFamily::Unix, kind, SockFlag::SOCK_CLOEXEC, None)?;
    set_timeouts(&socket, timeout)?;
    socket::connect(socket.as_raw_fd(), &UnixAddr::new(path)?)?;
    Ok(socket)
}

fn connect_tcp(address: &str, timeout: Duration) -> io::Result<OwnedFd> {
    let mut last = io::Error::new(ErrorKind::NotFound, "the name has no address");
    for address in address.to_socket_addrs()? {
        match TcpStream::connect_timeout(&address, timeout) {
            Ok(stream) => return Ok(stream.into()),
            Err(error) => last = error,
        }
    }
    Err(last)
}

fn set_timeouts(socket: &OwnedFd, timeout: Duration) -> io::Result<()> {
    // 0 would mean for ever.
    let millis = i64::try_from(timeout.as_millis()).unwrap_or(i64::MAX).max(1);
    let value = TimeVal::new(millis / 1000, millis % 1000 * 1000);
    setsockopt(socket, sockopt::SendTimeout, &value)?;
    setsockopt(socket, sockopt::ReceiveTimeout, &value)?;
    Ok(())
}

/// Takes over an inherited stream socket.
fn inherit(number: RawFd) -> io::Result<OwnedFd> {
    // SAFETY: the operator named this number as the migration's own, which is the contract of
    // `fd:N`; standard streams are excluded by `Uri`. That it is open and a stream socket is
    // checked before it is owned, so a wrong number closes nothing.
    let borrowed = unsafe { BorrowedFd::borrow_raw(number) };
    fcntl(borrowed, FcntlArg::F_GETFD)?;
    if socket::getsockopt(&borrowed, sockopt::SockType)? != socket::SockType::Stream {
        return Err(io::Error::new(ErrorKind::InvalidInput, "not a stream socket"));
    }
    // SAFETY: as above.
    let owned = unsafe { OwnedFd::from_raw_fd(number) };
    fcntl(&owned, FcntlArg::F_SETFD(nix::fcntl::FdFlag::FD_CLOEXEC))?;
    Ok(owned)
}

/// Accepts a connection on a listening socket of whatever family.
fn accept(listener: &OwnedFd) -> io::Result<OwnedFd> {
    let accepted = socket::accept4(listener.as_raw_fd(), socket::SockFlag::SOCK_CLOEXEC)?;
    // SAFETY: accept(2) just made this descriptor; nobody else owns it.
    Ok(unsafe { OwnedFd::from_raw_fd(accepted) })
}

/// Whether `path` is a socket that nobody serves.
fn is_stale(path: &Path) -> bool {
    let socket = std::fs::symlink_metadata(path).is_ok_and(|meta| meta.file_type().is_socket());
    let refused = |error: io::Error| error.kind() == ErrorKind::ConnectionRefused;
    socket && UnixStream::connect(path).is_err_and(refused)
}
