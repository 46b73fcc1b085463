//! A private libvirt host for tests: libvirtd, virtlogd and their guests in namespaces of their own, ended with this value.

#![allow(dead_code, reason = "each test binary uses a part of it")]

use std::io::{BufRead, BufReader, Write};
use std::os::unix::fs::{MetadataExt, PermissionsExt};
use std::path::{Path, PathBuf};
use std::process::{Child, ChildStdin, ChildStdout, Command, Stdio};
use std::sync::{Mutex, PoisonError};

use pileus::cli::postgres::kept;
use tempfile::TempDir;

/// A libvirtd with a host UUID, sockets, configuration and state of its own. The stock QEMU user and virtlogd are used.
/// Everything in it ends when this is dropped, or when the test process ends in any way.
pub struct Libvirtd {
    root: TempDir,
    child: Child,
    talk: Mutex<Talk>,
    /// The namespaces' first process, as seen from here.
    init: u32,
}

/// With the namespaces' first process.
struct Talk {
    /// Its end of file ends the host.
    stdin: Option<ChildStdin>,
    answers: BufReader<ChildStdout>,
}

impl Libvirtd {
    /// Starts a host and waits until it answers.
    pub fn start() -> Self {
        Self::start_with("logd", 2 << 20)
    }

    /// `stdio_handler` of qemu.conf, `logd` (the stock) or `file`; and at how many bytes virtlogd rotates (it keeps three
    /// parts besides the current).
    pub fn start_with(stdio_handler: &str, rotate_at: u64) -> Self {
        assert!(
            is_root(),
            "tests with a real libvirtd make namespaces and must run as root: use `sudo make test`"
        );
        let root = TempDir::with_prefix("lv").expect("make a directory for a libvirt host");
        // QEMU runs as a user of its own and has to get at disks below.
        std::fs::set_permissions(root.path(), PermissionsExt::from_mode(0o711)).unwrap();
        let script = concat!(env!("CARGO_MANIFEST_DIR"), "/tests/common/libvirtd.sh");
        let name = root.path().file_name().unwrap().to_string_lossy().replace('.', "");
        let mut child = Command::new("unshare")
            .args(["--fork", "--kill-child", "--pid", "--net", "--mount", "--uts", "bash", script])
            .arg(root.path())
            .args([name.as_str(), stdio_handler, &rotate_at.to_string()])
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .spawn()
            .expect("start unshare (util-linux)");
        let stdin = child.stdin.take();
        let answers = BufReader::new(child.stdout.take().unwrap());
        let talk = Mutex::new(Talk { stdin, answers });
        let mut host = Self { root, child, talk, init: 0 };
        host.init = host.say("start");
        host
    }

    /// The libvirt URI of this host.
    pub fn uri(&self) -> String {
        format!("qemu+unix:///system?socket={}", self.path("run/libvirt-sock").display())
    }

    /// A directory for pools that this host's QEMU can reach.
    pub fn pool_path(&self) -> String {
        self.path("pool").to_string_lossy().into_owned()
    }

    /// A path below the host's own directory; `log/`, `run/`, `lib/`, `etc/` are its libvirt's.
    pub fn path(&self, below: &str) -> PathBuf {
        self.root.path().join(below)
    }

    /// A command to be run inside the host: its network, its files, its processes.
    pub fn command(&self, program: impl AsRef<Path>) -> Command {
        let mut command = Command::new("nsenter");
        command.args([
            "--target",
            &self.init.to_string(),
            "--net",
            "--mount",
            "--pid",
            "--uts",
            "--",
        ]);
        command.arg(program.as_ref());
        command
    }

    /// A command with the host's files and among its processes, ended with it, but in the network of the tests.
    pub fn command_beside(&self, program: impl AsRef<Path>) -> Command {
        let mut command = Command::new("nsenter");
        command.args(["--target", &self.init.to_string(), "--mount", "--pid", "--"]);
        command.arg(program.as_ref());
        command
    }

    /// Runs a command inside the host to its end and gives what it printed; panics where it fails.
    pub fn run(&self, program: &str, args: &[&str]) -> String {
        let output = self.command(program).args(args).output().expect("run nsenter");
        let (out, err) = (&output.stdout, String::from_utf8_lossy(&output.stderr));
        assert!(output.status.success(), "{program} {args:?}: {err}");
        String::from_utf8_lossy(out).into_owned()
    }

    pub fn virsh(&self, args: &[&str]) -> String {
        let mut all = vec!["-q", "-c", "qemu:///system"];
        all.extend(args);
        self.run("virsh", &all)
    }

    /// libvirtd dies by SIGKILL; guests run on.
    pub fn kill(&self) {
        self.say("kill");
    }

    /// libvirtd ends by SIGTERM; guests run on.
    pub fn stop(&self) {
        self.say("stop");
    }

    /// libvirtd again, after `kill` or `stop`.
    pub fn start_again(&self) {
        self.say("start");
    }

    fn say(&self, command: &str) -> u32 {
        let mut talk = self.talk.lock().unwrap_or_else(PoisonError::into_inner);
        let stdin = talk.stdin.as_mut().expect("open until dropped");
        writeln!(stdin, "{command}").expect("the libvirt host has ended");
        let mut line = String::new();
        talk.answers.read_line(&mut line).expect("the libvirt host has ended");
        let (pid, said) = line.trim().split_once(' ').unwrap_or_default();
        assert_eq!(said, command, "the libvirt host has ended: its words are above");
        pid.parse().unwrap()
    }
}

impl Drop for Libvirtd {
    fn drop(&mut self) {
        // At the end of its input the namespaces' first process ends, and takes all the others with it; unshare ends last.
        drop(self.talk.get_mut().unwrap_or_else(PoisonError::into_inner).stdin.take());
        let _ = self.child.wait();
        kept::tree(self.root.path());
    }
}

fn is_root() -> bool {
    std::fs::metadata("/proc/self").is_ok_and(|process| process.uid() == 0)
}
