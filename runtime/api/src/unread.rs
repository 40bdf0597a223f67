//! What comes on a connection and is no request: hyper refuses it by itself, with a status and not a word. Here the word is put in.

use std::io::{self, IoSlice};
use std::pin::Pin;
use std::task::{Context, Poll, ready};

use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};

use crate::problem::{MEDIA_TYPE, Problem};

/// The last answer on a connection.
pub(crate) fn refusal(problem: &Problem) -> Vec<u8> {
    let (status, title) = (problem.status, &problem.title);
    let body = serde_json::to_vec(problem).unwrap_or_default();
    let length = body.len();
    let head = format!(
        "HTTP/1.1 {status} {title}\r\ncontent-type: {MEDIA_TYPE}\r\nconnection: close\r\ncontent-length: {length}\r\n\r\n"
    );
    [head.into_bytes(), body].concat()
}

/// A stream on which every refusal is a problem document.
pub(crate) struct Worded<S> {
    stream: S,
    /// Bytes of the most headers that a request may have.
    max_headers: usize,
    /// What is written in place of what hyper wrote, and how much of it was.
    document: Vec<u8>,
    written: usize,
}

impl<S> Worded<S> {
    pub(crate) fn new(stream: S, max_headers: usize) -> Self {
        Self { stream, max_headers, document: Vec::new(), written: 0 }
    }

    /// The document for what hyper is about to write, if that is such a refusal. The node's own answers of these kinds have a body.
    fn document_for(&self, bytes: &[u8]) -> Option<Vec<u8>> {
        let status = bytes.strip_prefix(b"HTTP/1.1 ")?.first_chunk::<3>()?;
        let head = str::from_utf8(bytes).ok()?.to_ascii_lowercase();
        if head.contains("content-type:") || !head.contains("content-length: 0\r\n") {
            return None;
        }
        let problem = match status {
            b"431" => Problem::new(
                431,
                format!("a request has at most {} bytes of headers, and 100 of them", self.max_headers),
            ),
            b"414" => Problem::new(414, "the request's address is too long"),
            b"400" => Problem::bad_request("what was sent is no HTTP/1.1 request"),
            _ => return None,
        };
        Some(refusal(&problem))
    }
}

impl<S: AsyncWrite + Unpin> Worded<S> {
    /// Writes what is left of the document.
    fn poll_document(&mut self, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        while self.written < self.document.len() {
            let left = &self.document[self.written..];
            let written = ready!(Pin::new(&mut self.stream).poll_write(cx, left))?;
            if written == 0 {
                return Poll::Ready(Err(io::ErrorKind::WriteZero.into()));
            }
            self.written += written;
        }
        Poll::Ready(Ok(()))
    }
}

impl<S: AsyncRead + Unpin> AsyncRead for Worded<S> {
    fn poll_read(mut self: Pin<&mut Self>, cx: &mut Context<'_>, buf: &mut ReadBuf<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.stream).poll_read(cx, buf)
    }
}

impl<S: AsyncWrite + Unpin> AsyncWrite for Worded<S> {
    fn poll_write(mut self: Pin<&mut Self>, cx: &mut Context<'_>, bytes: &[u8]) -> Poll<io::Result<usize>> {
        if self.document.is_empty()
            && let Some(document) = self.document_for(bytes)
        {
            self.document = document;
        }
        if self.document.is_empty() {
            return Pin::new(&mut self.stream).poll_write(cx, bytes);
        }
        // It is the last that is written on this connection.
        ready!(self.poll_document(cx))?;
        Poll::Ready(Ok(bytes.len()))
    }

    fn poll_write_vectored(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        slices: &[IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        // A refusal is one piece.
        match slices {
            [only] => self.poll_write(cx, only),
            _ => Pin::new(&mut self.stream).poll_write_vectored(cx, slices),
        }
    }

    fn is_write_vectored(&self) -> bool {
        self.stream.is_write_vectored()
    }

    fn poll_flush(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        ready!(self.poll_document(cx))?;
        Pin::new(&mut self.stream).poll_flush(cx)
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        ready!(self.poll_document(cx))?;
        Pin::new(&mut self.stream).poll_shutdown(cx)
    }
}
