//! Telling a service manager how we are: the protocol of sd_notify(3), which systemd and others speak.
//!
//! The crate `sd-notify` knows the words. Sending is ours: it never waits (a manager that does not read must not hold up
//! anything), and it also reaches sockets in the abstract namespace, whose names begin with `@`.

use std::ffi::OsStr;
use std::io;
use std::os::linux::net::SocketAddrExt;
use std::os::unix::ffi::OsStrExt;
use std::os::unix::net::{SocketAddr, UnixDatagram};
use std::time::Duration;

use sd_notify::NotifyState;

/// Where the service manager listens.
const NOTIFY_SOCKET: &str = "NOTIFY_SOCKET";

/// The service manager that started this process, if there is one. Without one, telling does nothing.
///
/// An error of a method means that the manager was not told; nothing else depends on it.
#[derive(Debug, Clone)]
pub struct ServiceManager {
    address: Option<SocketAddr>,
    watchdog_interval: Option<Duration>,
}

impl ServiceManager {
    /// As `NOTIFY_SOCKET`, `WATCHDOG_USEC` and `WATCHDOG_PID` say. An address that cannot be one is an error.
    pub fn from_environment() -> io::Result<Self> {
        let name = std::env::var_os(NOTIFY_SOCKET).filter(|name| !name.is_empty());
        Ok(Self {
            address: name.as_deref().map(address).transpose()?,
            // Twice as often as is asked for, so that one that comes late is not too late.
            watchdog_interval: sd_notify::watchdog_enabled()
                .map(|limit| limit / 2)
                .filter(|interval| !interval.is_zero()),
        })
    }

    /// Whether anybody listens.
    pub fn is_there(&self) -> bool {
        self.address.is_some()
    }

    /// Start-up is finished; also: reloading is.
    pub fn ready(&self) -> io::Result<()> {
        self.tell(&[NotifyState::Ready])
    }

    /// One line for whoever looks; line breaks become spaces.
    pub fn status(&self, text: &str) -> io::Result<()> {
        // A line of its own could be a different word.
        let line = text.replace(char::is_control, " ");
        self.tell(&[NotifyState::Status(&line)])
    }

    /// Logs are being reopened. To be followed by [`ServiceManager::ready`].
    pub fn reloading(&self) -> io::Result<()> {
        self.tell(&[NotifyState::Reloading, NotifyState::monotonic_usec_now()?])
    }

    /// The process is about to end.
    pub fn stopping(&self) -> io::Result<()> {
        self.tell(&[NotifyState::Stopping])
    }

    /// How often [`ServiceManager::alive`] is to be called: half the time after which the manager takes us for dead.
    /// `None`: it does not watch. Never zero.
    pub fn watchdog_interval(&self) -> Option<Duration> {
        self.watchdog_interval
    }

    /// This process still does its work.
    pub fn alive(&self) -> io::Result<()> {
        self.tell(&[NotifyState::Watchdog])
    }

    fn tell(&self, words: &[NotifyState<'_>]) -> io::Result<()> {
        let Some(address) = &self.address else {
            return Ok(());
        };
        let text: String = words.iter().map(|word| format!("{word}\n")).collect();
        let socket = UnixDatagram::unbound()?;
        socket.set_nonblocking(true)?;
        // A datagram is sent whole or not at all.
        socket.send_to_addr(text.as_bytes(), address).map(drop)
    }
}

fn address(name: &OsStr) -> io::Result<SocketAddr> {
    match name.as_bytes() {
        [b'@', abstract_name @ ..] => SocketAddr::from_abstract_name(abstract_name),
        [b'/', ..] => SocketAddr::from_pathname(name),
        _ => Err(io::Error::new(
            io::ErrorKind::InvalidInput,
            format!("{NOTIFY_SOCKET} is {name:?}, neither an absolute path nor @ and a name"),
        )),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::process::testing::{Other, command, play, say};
    use std::path::Path;

    fn manager(socket: &OsStr) -> ServiceManager {
        ServiceManager {
            address: Some(address(socket).unwrap()),
            watchdog_interval: None,
        }
    }

    fn heard(socket: &UnixDatagram) -> String {
        let mut bytes = [0; 1024];
        let length = socket.recv(&mut bytes).unwrap();
        String::from_utf8(bytes[..length].to_vec()).unwrap()
    }

    #[test]
    #[ignore = "the other process of the test below"]
    fn child() {
        play(|part, _| {
            let manager = ServiceManager::from_environment().unwrap();
            say(format_args!("{:?}", manager.watchdog_interval()));
            if part == "speak" {
                manager.ready().unwrap();
            }
        });
    }

    #[test]
    fn the_manager_of_the_environment_is_told_and_watches_in_its_own_time() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("notify");
        let socket = UnixDatagram::bind(&path).unwrap();
        let mut speaking = command(
            "process::service_manager::tests::child",
            "speak",
            Path::new(""),
        );
        speaking
            .env("NOTIFY_SOCKET", &path)
            .env("WATCHDOG_USEC", "3000000");
        let mut other = Other::start(speaking);
        assert_eq!(other.says(), "Some(1.5s)");
        assert!(other.ends().success());
        assert_eq!(heard(&socket), "READY=1\n");
    }

    #[test]
    fn a_watchdog_for_another_process_or_none_is_none() {
        for (limit, pid) in [("3000000", "1"), ("0", ""), ("soon", "")] {
            let mut silent = command(
                "process::service_manager::tests::child",
                "silent",
                Path::new(""),
            );
            silent.env("WATCHDOG_USEC", limit);
            if !pid.is_empty() {
                silent.env("WATCHDOG_PID", pid);
            }
            assert_eq!(Other::start(silent).says(), "None");
        }
    }

    #[test]
    fn every_word_is_said_as_the_protocol_wants_it() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("notify");
        let socket = UnixDatagram::bind(&path).unwrap();
        let manager = manager(path.as_os_str());
        manager.status("2 tasks\nSTOPPING=1").unwrap();
        assert_eq!(heard(&socket), "STATUS=2 tasks STOPPING=1\n");
        manager.reloading().unwrap();
        let said = heard(&socket);
        let time = said.strip_prefix("RELOADING=1\nMONOTONIC_USEC=").unwrap();
        assert!(time.trim_end().parse::<u64>().unwrap() > 0);
        manager.alive().unwrap();
        assert_eq!(heard(&socket), "WATCHDOG=1\n");
        manager.stopping().unwrap();
        assert_eq!(heard(&socket), "STOPPING=1\n");
    }

    #[test]
    fn a_socket_without_a_file_is_reached_too() {
        let name = format!("df2redis test {}", std::process::id());
        let address = SocketAddr::from_abstract_name(&name).unwrap();
        let socket = UnixDatagram::bind_addr(&address).unwrap();
        manager(OsStr::new(&format!("@{name}"))).ready().unwrap();
        assert_eq!(heard(&socket), "READY=1\n");
    }

    #[test]
    fn a_manager_that_does_not_read_is_not_waited_for() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("notify");
        let _socket = UnixDatagram::bind(&path).unwrap();
        let manager = manager(path.as_os_str());
        // The kernel keeps a few hundred datagrams at most.
        let refused = (0..100_000).find_map(|_| manager.alive().err());
        assert_eq!(refused.unwrap().kind(), io::ErrorKind::WouldBlock);
    }

    #[test]
    fn a_name_that_is_no_address_is_refused_and_nobody_is_told_nothing() {
        assert!(address(OsStr::new("relative")).is_err());
        let nobody = ServiceManager {
            address: None,
            watchdog_interval: None,
        };
        assert!(!nobody.is_there());
        nobody.ready().unwrap();
    }
}
