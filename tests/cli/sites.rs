//! Sites that do not answer, or not as they should: what is said, and that everything ends in time.

use std::fs;
use std::io::Write;
use std::net::{Ipv4Addr, TcpListener};
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::{Duration, Instant};

use crate::common::drive::{Builder, Drive, drive_test};
use crate::common::sshd::{Mode, Sshd};
use crate::home::Home;

/// The scan fails, `doctor` names the site, and both say why.
fn site_is_bad(home: &Home, site: &str, why: &[&str]) {
    home.run(["-c", "backlot.toml", "scan"])
        .failed(1, &[&["could not scan demo to its end"], why].concat());
    let doctor = home.run(["-c", "backlot.toml", "doctor"]);
    assert_eq!(doctor.code, Some(1), "{doctor:#?}");
    let found = format!("BAD  site       {site}: ");
    let site = doctor
        .out
        .lines()
        .find(|l| l.starts_with(&found))
        .unwrap_or_else(|| panic!("{doctor:#?}"));
    for wanted in why {
        assert!(site.contains(wanted), "not said: {wanted}\n{site}");
    }
}

fn closed_port() -> u16 {
    let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).expect("a port");
    listener.local_addr().expect("bound").port()
}

#[test]
fn a_server_that_does_not_listen() {
    let home = Home::new();
    home.sftp_settings(closed_port(), "");
    site_is_bad(&home, "far", &["the site can't be reached", "Connection refused"]);
}

/// A server that does this with every connection, and a count of them.
fn server(answer: impl Fn(std::net::TcpStream) + Send + 'static) -> (u16, Arc<AtomicUsize>) {
    let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).expect("a port");
    let port = listener.local_addr().expect("bound").port();
    let met = Arc::new(AtomicUsize::new(0));
    let counted = Arc::clone(&met);
    std::thread::spawn(move || {
        for stream in listener.incoming().flatten() {
            counted.fetch_add(1, Ordering::SeqCst);
            answer(stream);
        }
    });
    (port, met)
}

#[test]
fn a_server_that_hangs_up() {
    let home = Home::new();
    let (port, met) = server(drop);
    home.sftp_settings(port, "");
    site_is_bad(&home, "far", &["the site can't be reached: [127.0.0.1]:"]);
    assert!(met.load(Ordering::SeqCst) > 0, "the fault did not fire");
}

#[test]
fn a_server_that_is_no_ssh_server() {
    let home = Home::new();
    let (port, met) = server(|mut stream| drop(stream.write_all(b"HTTP/1.1 400 Bad Request\r\n\r\n")));
    home.sftp_settings(port, "");
    site_is_bad(&home, "far", &["the site can't be reached: [127.0.0.1]:"]);
    assert!(met.load(Ordering::SeqCst) > 0, "the fault did not fire");
}

#[test]
fn a_server_that_never_says_a_word() {
    let home = Home::new();
    let held = std::sync::Mutex::new(Vec::new());
    let (port, met) = server(move |stream| held.lock().expect("ours").push(stream));
    home.sftp_settings(port, "");
    let begun = Instant::now();
    site_is_bad(&home, "far", &["did not answer within 2s"]);
    assert!(met.load(Ordering::SeqCst) > 0, "the fault did not fire");
    assert!(begun.elapsed() < Duration::from_secs(60), "{:?}", begun.elapsed());
}

#[test]
fn a_server_of_unknown_or_other_host_key_is_refused() {
    let Some(server) = Sshd::start_or_skip(Mode::Internal) else {
        return;
    };
    let home = Home::new();
    home.sftp_settings(
        server.port(),
        &format!("auth = \"key\"\nkey-file = {:?}", server.file("user_key")),
    );
    fs::write(home.join("known_hosts"), "").expect("written");
    site_is_bad(&home, "far", &["is not known", "known_hosts"]);

    let other = fs::read_to_string(server.file("other_key.pub")).expect("a key");
    fs::write(
        home.join("known_hosts"),
        format!("[127.0.0.1]:{} {other}", server.port()),
    )
    .expect("written");
    site_is_bad(&home, "far", &["known_hosts"]);
    let trusted = fs::read_to_string(home.join("known_hosts")).expect("there");
    assert_eq!(trusted.lines().count(), 1, "a refused key is not taken up: {trusted}");
}

#[test]
fn a_folder_that_is_gone() {
    let home = Home::new();
    home.local_settings("");
    fs::rename(home.join("site"), home.join("elsewhere")).expect("moved");
    site_is_bad(&home, "nas", &["is not there; is the file server mounted?"]);
}

#[test]
fn a_drive_mounts_and_shows_its_tree_while_its_site_is_away() {
    drive_test(|| {
        let site = tempfile::tempdir().expect("a folder");
        fs::create_dir(site.path().join("sq010")).expect("made");
        fs::write(site.path().join("sq010/plate.exr"), b"pixels").expect("written");
        let root = site.path().join("away");
        fs::create_dir(&root).expect("made");
        fs::rename(site.path().join("sq010"), root.join("sq010")).expect("moved");
        let mut drive: Drive = Builder::local(&root).build();
        drive.scan();
        fs::rename(&root, site.path().join("gone")).expect("moved");
        drive.mount();
        assert_eq!(fs::read_dir(drive.path("sq010")).expect("listed").count(), 1);
        crate::common::drive::eventually("the lost link", || drive.link() == "down");
        let status = drive.tell(["status"]);
        assert!(status.contains("down (") && status.contains("is not there"), "{status}");
        let doctor = drive.run(["doctor"]);
        let said = String::from_utf8_lossy(&doctor.stdout);
        assert_eq!(doctor.status.code(), Some(1));
        assert!(said.contains("BAD  link       the daemon has lost site"), "{said}");
        drive.unmount();
    });
}
