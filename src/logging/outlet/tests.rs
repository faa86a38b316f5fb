use super::*;
use nix::fcntl::{FcntlArg, OFlag, fcntl};
use std::io::Read;
use std::sync::Arc;
use std::sync::atomic::AtomicUsize;
use std::thread;

/// An outlet into a pipe, its reader, and how often it has failed.
fn pipe() -> (Outlet, io::PipeReader, Arc<AtomicUsize>) {
    let (reader, writer) = io::pipe().unwrap();
    let failures = Arc::new(AtomicUsize::new(0));
    let counted = Arc::clone(&failures);
    let on_failure = move |_: &io::Error| {
        counted.fetch_add(1, Ordering::Relaxed);
    };
    (
        Outlet::of(&writer, Box::new(on_failure)).unwrap(),
        reader,
        failures,
    )
}

#[test]
fn a_reader_that_is_gone_is_told_once_and_written_to_no_more() {
    let (outlet, reader, failures) = pipe();
    outlet.write(b"one");
    assert!(!outlet.has_failed());
    drop(reader);
    outlet.write(b"two");
    outlet.write(b"three");
    assert!(outlet.has_failed());
    assert_eq!(failures.load(Ordering::Relaxed), 1);
}

#[test]
fn a_terminal_that_hangs_up_is_told_once_and_written_to_no_more() {
    let terminal = nix::pty::openpty(None, None).unwrap();
    let failure = Arc::new(Mutex::new(Vec::new()));
    let kept = Arc::clone(&failure);
    let on_failure = move |error: &io::Error| kept.lock().unwrap().push(error.raw_os_error());
    let outlet = Outlet::of(&terminal.slave, Box::new(on_failure)).unwrap();
    drop(terminal.master);
    outlet.write(b"one\n");
    outlet.write(b"two\n");
    assert_eq!(*failure.lock().unwrap(), [Some(nix::libc::EIO)]);
}

#[test]
fn a_stream_that_somebody_made_non_blocking_loses_nothing() {
    let (outlet, mut reader, failures) = pipe();
    fcntl(outlet.fd(), FcntlArg::F_SETFL(OFlag::O_NONBLOCK)).unwrap();
    // More than a pipe holds.
    let bytes: Vec<u8> = (0..1_000_000_u32).map(|n| (n % 251) as u8).collect();
    let expected = bytes.clone();
    let writing = thread::spawn(move || outlet.write(&bytes));
    let mut read = Vec::new();
    reader.read_to_end(&mut read).unwrap();
    writing.join().unwrap();
    assert!(read == expected, "{} bytes", read.len());
    assert_eq!(failures.load(Ordering::Relaxed), 0);
}
