//! The asking side, with a deadline on every wait.

use std::io::{BufRead, BufReader, Read, Write};
use std::os::unix::net::UnixStream;
use std::path::{Path, PathBuf};
use std::time::Duration;

use ras_core::{Pfn, PfnRange, RetiredPage};
use serde::de::DeserializeOwned;

use crate::{
    Failure, HealthStatus, Ordered, PageDetail, PageList, Request, Response, Status, StoreStatus,
    Unretired,
};

/// Longest response taken, in bytes: a full [`PageList`] with long texts.
const RESPONSE_MAX: u64 = 16 << 20;

/// A connection to rasd.
#[derive(Debug)]
pub struct Client {
    stream: BufReader<UnixStream>,
    path: PathBuf,
}

/// Why rasd could not be asked, or did not do as asked.
#[derive(Debug, thiserror::Error)]
#[allow(missing_docs, reason = "the messages say what the fields are")]
pub enum ApiError {
    #[error("{doing} at {path}")]
    Io { doing: &'static str, path: PathBuf, source: std::io::Error },
    #[error("what listens at {path} does not answer like rasd")]
    Protocol { path: PathBuf, source: serde_json::Error },
    #[error("rasd hung up or sent too long a line at {path}")]
    Closed { path: PathBuf },
    #[error("{}", .0.message)]
    Failed(Failure),
}

impl Client {
    /// Connects; every later wait is bounded by `timeout`.
    ///
    /// # Errors
    /// Nobody listens, or no permission.
    pub fn connect(path: &Path, timeout: Duration) -> Result<Self, ApiError> {
        let io = |doing| move |source| ApiError::Io { doing, path: path.to_owned(), source };
        let stream = UnixStream::connect(path).map_err(io("connecting to rasd"))?;
        let timeout = Some(timeout.max(Duration::from_millis(1)));
        stream
            .set_read_timeout(timeout)
            .and_then(|()| stream.set_write_timeout(timeout))
            .map_err(io("setting deadlines"))?;
        Ok(Self { stream: BufReader::new(stream), path: path.to_owned() })
    }

    /// [`Request::Status`].
    ///
    /// # Errors
    /// See [`ApiError`].
    pub fn status(&mut self) -> Result<Status, ApiError> {
        self.call(&Request::Status {})
    }

    /// [`Request::Pages`], as often as needed for all of them.
    ///
    /// # Errors
    /// See [`ApiError`].
    pub fn pages(&mut self) -> Result<Vec<RetiredPage>, ApiError> {
        let mut pages: Vec<RetiredPage> = Vec::new();
        loop {
            let after = pages.last().map(|page| page.pfn);
            let list: PageList = self.call(&Request::Pages { after })?;
            // An empty list that claims to have more would be asked for ever.
            let more = list.more && !list.pages.is_empty();
            pages.extend(list.pages);
            if !more {
                return Ok(pages);
            }
        }
    }

    /// [`Request::Page`].
    ///
    /// # Errors
    /// See [`ApiError`].
    pub fn page(&mut self, pfn: Pfn) -> Result<PageDetail, ApiError> {
        self.call(&Request::Page { pfn })
    }

    /// [`Request::Retire`].
    ///
    /// # Errors
    /// See [`ApiError`].
    pub fn retire(&mut self, pages: &[PfnRange], note: &str) -> Result<Ordered, ApiError> {
        self.call(&Request::Retire { pages: pages.to_vec(), note: note.to_owned() })
    }

    /// [`Request::Import`].
    ///
    /// # Errors
    /// See [`ApiError`].
    pub fn import(&mut self, pages: &[RetiredPage], note: &str) -> Result<Ordered, ApiError> {
        self.call(&Request::Import { pages: pages.to_vec(), note: note.to_owned() })
    }

    /// [`Request::Unretire`].
    ///
    /// # Errors
    /// See [`ApiError`].
    pub fn unretire(&mut self, pfn: Pfn, note: &str) -> Result<Unretired, ApiError> {
        self.call(&Request::Unretire { pfn, note: note.to_owned() })
    }

    /// [`Request::Health`].
    ///
    /// # Errors
    /// See [`ApiError`].
    pub fn health(&mut self) -> Result<HealthStatus, ApiError> {
        self.call(&Request::Health {})
    }

    /// [`Request::ClearHealth`].
    ///
    /// # Errors
    /// See [`ApiError`].
    pub fn clear_health(&mut self, note: &str) -> Result<HealthStatus, ApiError> {
        self.call(&Request::ClearHealth { note: note.to_owned() })
    }

    /// [`Request::AcceptDamage`].
    ///
    /// # Errors
    /// See [`ApiError`].
    pub fn accept_damage(&mut self, note: &str) -> Result<StoreStatus, ApiError> {
        self.call(&Request::AcceptDamage { note: note.to_owned() })
    }

    fn call<T: DeserializeOwned>(&mut self, request: &Request) -> Result<T, ApiError> {
        let protocol = |source| ApiError::Protocol { path: self.path.clone(), source };
        let io = |doing| move |source| (doing, source);
        let mut line = serde_json::to_string(request).map_err(protocol)?;
        line.push('\n');
        let mut answer = Vec::new();
        self.stream
            .get_mut()
            .write_all(line.as_bytes())
            .map_err(io("sending the request"))
            .and_then(|()| {
                (&mut self.stream)
                    .take(RESPONSE_MAX)
                    .read_until(b'\n', &mut answer)
                    .map_err(io("waiting for the answer"))
            })
            .map_err(|(doing, source)| ApiError::Io { doing, path: self.path.clone(), source })?;
        if answer.last() != Some(&b'\n') {
            return Err(ApiError::Closed { path: self.path.clone() });
        }
        match serde_json::from_slice(&answer).map_err(protocol)? {
            Response::Return(value) => serde_json::from_value(value).map_err(protocol),
            Response::Error(failure) => Err(ApiError::Failed(failure)),
        }
    }
}
