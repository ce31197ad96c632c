//! A server for tests. It has one thread for each connection and answers with a closure.

use std::{
    io::{self, Read, Write},
    net::{SocketAddr, TcpListener, TcpStream},
    sync::{
        Arc, Mutex,
        atomic::{AtomicBool, Ordering},
    },
    thread::JoinHandle,
};

/// A request that the server received.
#[derive(Debug, Clone)]
pub(crate) struct Seen {
    /// Number of the connection, from 0.
    pub(crate) connection: usize,
    /// Number of the request on its connection, from 0.
    pub(crate) number: usize,
    /// Request line and header.
    pub(crate) head: String,
    /// The body.
    pub(crate) body: String,
}

impl Seen {
    /// The path of the request.
    pub(crate) fn path(&self) -> &str {
        self.head.split(' ').nth(1).unwrap()
    }

    /// The value of a header field.
    pub(crate) fn field(&self, name: &str) -> Option<&str> {
        self.head.lines().find_map(|line| line.strip_prefix(name)?.strip_prefix(": "))
    }
}

/// The result of a handler: whether the connection continues.
pub(crate) type Handled = io::Result<bool>;

/// A server that ends when it is dropped.
pub(crate) struct Server {
    address: SocketAddr,
    seen: Arc<Mutex<Vec<Seen>>>,
    ended: Arc<AtomicBool>,
    thread: Option<JoinHandle<()>>,
}

impl Server {
    /// A server on a free port of 127.0.0.1.
    pub(crate) fn start(handle: impl Fn(&Seen, &mut TcpStream) -> Handled + Send + Sync + 'static) -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let address = listener.local_addr().unwrap();
        let (seen, ended, handle) = (Arc::default(), Arc::new(AtomicBool::new(false)), Arc::new(handle));
        let thread = std::thread::spawn({
            let (seen, ended) = (Arc::clone(&seen), Arc::clone(&ended));
            move || {
                for (connection, stream) in listener.incoming().enumerate() {
                    if ended.load(Ordering::Relaxed) {
                        return;
                    }
                    let (seen, handle) = (Arc::clone(&seen), Arc::clone(&handle));
                    // Some tests break connections on purpose.
                    std::thread::spawn(move || serve(stream.unwrap(), connection, &seen, &*handle).ok());
                }
            }
        });
        Self { address, seen, ended, thread: Some(thread) }
    }

    /// The URL of a path on the server.
    pub(crate) fn url(&self, path: &str) -> String {
        format!("http://{}{path}", self.address)
    }

    /// The requests so far.
    pub(crate) fn seen(&self) -> Vec<Seen> {
        self.seen.lock().unwrap().clone()
    }
}

impl Drop for Server {
    fn drop(&mut self) {
        self.ended.store(true, Ordering::Relaxed);
        // This wakes the accepting thread.
        TcpStream::connect(self.address).ok();
        self.thread.take().unwrap().join().unwrap();
    }
}

fn serve(
    mut stream: TcpStream,
    connection: usize,
    all: &Mutex<Vec<Seen>>,
    handle: &(impl Fn(&Seen, &mut TcpStream) -> Handled + ?Sized),
) -> io::Result<()> {
    stream.set_nodelay(true)?;
    for number in 0.. {
        let Some(head) = read_head(&mut stream)? else { return Ok(()) };
        let mut seen = Seen { connection, number, head, body: String::new() };
        let length = seen.field("content-length").map_or(0, |length| length.parse().unwrap());
        let mut body = vec![0; length];
        stream.read_exact(&mut body)?;
        seen.body = String::from_utf8(body).unwrap();
        all.lock().unwrap().push(seen.clone());
        if !handle(&seen, &mut stream)? {
            return Ok(());
        }
    }
    Ok(())
}

/// Reads up to the empty line, and no further.
fn read_head(stream: &mut TcpStream) -> io::Result<Option<String>> {
    let mut head = Vec::new();
    let mut window = [0; 4096];
    while !head.ends_with(b"\r\n\r\n") {
        let seen = stream.peek(&mut window)?;
        if seen == 0 {
            return Ok(None);
        }
        let end = window[..seen].windows(4).position(|four| four == b"\r\n\r\n").map_or(seen, |start| start + 4);
        let old = head.len();
        head.resize(old + end, 0);
        stream.read_exact(&mut head[old..])?;
    }
    Ok(Some(String::from_utf8(head).unwrap()))
}

/// Answers 200 with a short body.
pub(crate) fn ok(stream: &mut TcpStream) -> Handled {
    answer(stream, "HTTP/1.1 200 OK\r\ncontent-length: 2\r\n\r\nok")
}

/// Answers with a status and no body.
pub(crate) fn status(stream: &mut TcpStream, status: u16) -> Handled {
    answer(stream, &format!("HTTP/1.1 {status} Whatever\r\ncontent-length: 0\r\n\r\n"))
}

/// Writes the text. The connection continues.
pub(crate) fn answer(stream: &mut TcpStream, text: &str) -> Handled {
    stream.write_all(text.as_bytes())?;
    Ok(true)
}
