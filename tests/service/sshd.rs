//! A real sshd on loopback, with a client of its own.

use crate::support::eventually;
use crate::support::redis_server::free_port;
use std::fs;
use std::net::TcpStream;
use std::path::{Path, PathBuf};
use std::process::{Child, ChildStdin, Command, Output, Stdio};
use tempfile::TempDir;

/// A running sshd that lets in whoever runs the tests. Killed when dropped, with its sessions.
pub struct Sshd {
    child: Child,
    dir: TempDir,
    port: u16,
}

impl Sshd {
    /// # Panics
    /// When there is no sshd, or it does not listen.
    #[must_use]
    #[track_caller]
    pub fn start() -> Self {
        let dir = tempfile::tempdir().expect("a directory for sshd");
        for key in ["host", "client"] {
            let made = Command::new("ssh-keygen")
                .args(["-q", "-t", "ed25519", "-N", "", "-f"])
                .arg(dir.path().join(key))
                .status()
                .expect("ssh-keygen of openssh-client (`make tools` installs it)");
            assert!(made.success());
        }
        // Where sshd, started as root, shuts itself in before a login.
        if nix::unistd::geteuid().is_root() {
            fs::create_dir_all("/run/sshd").expect("/run/sshd");
        }
        let port = free_port();
        let at = |name: &str| dir.path().join(name).display().to_string();
        let config = format!(
            "Port {port}\nListenAddress 127.0.0.1\nHostKey {}\nAuthorizedKeysFile {}\nPidFile none\n\
             StrictModes no\nUsePAM no\nPermitRootLogin yes\nPasswordAuthentication no\nPrintMotd no\n",
            at("host"),
            at("client.pub")
        );
        fs::write(dir.path().join("config"), config).expect("a configuration");
        let log = fs::File::create(dir.path().join("log")).expect("a log");
        let child = Command::new(sshd())
            .args(["-D", "-e", "-f"])
            .arg(dir.path().join("config"))
            .stdin(Stdio::null())
            .stdout(Stdio::null())
            .stderr(log)
            .spawn()
            .expect("sshd of openssh-server (`make tools` installs it)");
        let running = Self { child, dir, port };
        eventually("sshd listening", || {
            TcpStream::connect(("127.0.0.1", port)).is_ok()
        });
        running
    }

    fn client(&self) -> Command {
        let mut client = Command::new("ssh");
        client
            .args(["-p", &self.port.to_string(), "-i"])
            .arg(self.dir.path().join("client"))
            .args([
                "-o",
                "StrictHostKeyChecking=no",
                "-o",
                "UserKnownHostsFile=/dev/null",
            ])
            .args(["-o", "LogLevel=ERROR", "-o", "BatchMode=yes", "-F", "none"]);
        client
    }

    /// `ssh host 'command'`: returns when ssh does, which is when nobody has its streams open any more.
    #[must_use]
    pub fn run(&self, command: &str) -> Output {
        let mut client = self.client();
        client.args(["127.0.0.1", command]).stdin(Stdio::null());
        client.output().expect("ssh")
    }

    /// A login with a terminal.
    #[must_use]
    pub fn log_in(&self) -> Session {
        let mut client = self.client();
        let shown = fs::File::create(self.dir.path().join("shown")).expect("a file");
        // An interactive shell, whatever the user's is.
        client.args(["-tt", "127.0.0.1", "exec bash --norc -i"]);
        let again = shown.try_clone().expect("a second handle");
        client.stdin(Stdio::piped()).stdout(shown).stderr(again);
        let mut child = client.spawn().expect("ssh");
        Session {
            input: child.stdin.take().expect("its input"),
            child,
            shown: self.dir.path().join("shown"),
        }
    }
}

impl Drop for Sshd {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
        if std::thread::panicking() {
            let log = fs::read_to_string(self.dir.path().join("log")).unwrap_or_default();
            eprintln!("--- log of sshd:\n{log}");
        }
    }
}

/// An operator at a shell on a terminal, far away.
pub struct Session {
    child: Child,
    input: ChildStdin,
    shown: PathBuf,
}

impl Session {
    /// Types a line.
    pub fn type_line(&mut self, line: &str) {
        use std::io::Write;
        writeln!(self.input, "{line}").expect("the session is open");
    }

    /// What the terminal has shown so far.
    #[must_use]
    pub fn shown(&self) -> String {
        String::from_utf8_lossy(&fs::read(&self.shown).unwrap_or_default()).into_owned()
    }

    /// The operator's machine is gone: nobody logs out.
    pub fn cut(mut self) {
        self.child.kill().expect("ssh is there");
        self.child.wait().expect("its end");
    }
}

impl Drop for Session {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
        if std::thread::panicking() {
            eprintln!("--- the terminal showed:\n{}", self.shown());
        }
    }
}

/// It must be called by its full path, to start itself again.
fn sshd() -> &'static Path {
    let known = ["/usr/sbin/sshd", "/usr/bin/sshd", "/usr/local/sbin/sshd"].map(Path::new);
    known
        .into_iter()
        .find(|path| path.exists())
        .expect("sshd of openssh-server (`make tools` installs it)")
}
