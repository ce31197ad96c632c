//! Fetches a file by HTTP or HTTPS, on a host without apt.
//!
//! The proxies are those of the variables `https_proxy`, `http_proxy` and `no_proxy`.

use std::{
    fs::File,
    io::{self, Read, Write},
    path::Path,
    sync::mpsc,
    thread,
    time::Duration,
};

use crate::stop::{PAUSE, Stop};

/// The most time for the connection and for the start of the answer.
const ANSWER: Duration = Duration::from_secs(60);

/// The most time for a whole file: 200 MB at 50 kB/s.
const WHOLE: Duration = Duration::from_secs(4000);

/// Why a file cannot be fetched.
#[derive(Debug, thiserror::Error)]
pub(crate) enum HttpError {
    /// memgate must end.
    #[error("memgate was interrupted")]
    Interrupted,
    /// The server does not answer, or not with the file.
    #[error("{0}")]
    Answer(String),
    /// The file cannot be written.
    #[error("{0}")]
    Write(io::Error),
}

/// Fetches `uri` into a new file, at most `size` bytes and one more.
///
/// # Errors
/// When the server does not answer with the file, when the file cannot be written, or when memgate must end.
pub(crate) fn fetch(uri: &str, file: &Path, size: u64, stop: &Stop) -> Result<(), HttpError> {
    let (sender, receiver) = mpsc::channel();
    let (uri, file, asked) = (uri.to_owned(), file.to_owned(), stop.clone());
    // A read may block for long, and an interrupt must not wait for it.
    thread::spawn(move || sender.send(download(&uri, &file, size, &asked)));
    loop {
        match receiver.recv_timeout(PAUSE) {
            Ok(result) => return result,
            Err(mpsc::RecvTimeoutError::Timeout) if stop.is_asked() => return Err(HttpError::Interrupted),
            Err(mpsc::RecvTimeoutError::Timeout) => {}
            Err(mpsc::RecvTimeoutError::Disconnected) => {
                return Err(HttpError::Answer("the download ended without a result".to_owned()));
            }
        }
    }
}

fn download(uri: &str, file: &Path, size: u64, stop: &Stop) -> Result<(), HttpError> {
    let config = ureq::Agent::config_builder().timeout_connect(Some(ANSWER)).timeout_recv_response(Some(ANSWER));
    let agent: ureq::Agent = config.timeout_global(Some(WHOLE)).build().into();
    let said = |error: &dyn std::fmt::Display| HttpError::Answer(error.to_string());
    let mut answer = agent.get(uri).call().map_err(|error| said(&error))?;
    let mut body = answer.body_mut().as_reader().take(size.saturating_add(1));
    let mut file = File::create(file).map_err(HttpError::Write)?;
    let mut bytes = vec![0; 64 << 10];
    loop {
        if stop.is_asked() {
            return Err(HttpError::Interrupted);
        }
        match body.read(&mut bytes).map_err(|error| said(&error))? {
            0 => return file.flush().map_err(HttpError::Write),
            read => file.write_all(&bytes[..read]).map_err(HttpError::Write)?,
        }
    }
}
