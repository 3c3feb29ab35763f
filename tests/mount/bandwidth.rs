//! Limits of a site: kept to, shown, and changed while bytes move.

use std::fs::{self, File};
use std::io::Read;
use std::os::unix::fs::FileExt;
use std::time::{Duration, Instant};

use crate::common::drive::{Builder, drive_test};

const MIB: usize = 1 << 20;

#[test]
fn a_limit_holds_and_is_changed_while_somebody_reads() {
    drive_test(|| {
        let site = tempfile::tempdir().unwrap();
        fs::write(site.path().join("plate"), vec![b'A'; 24 * MIB]).unwrap();
        let drive = Builder::local(site.path())
            .site("download-limit", "2MiB/s")
            .build()
            .mounted();
        let shown: serde_json::Value = serde_json::from_str(&drive.tell(["limit", "--json"])).unwrap();
        assert_eq!(shown[0]["download"]["bytes_per_second"], 2 * MIB);
        assert_eq!(shown[0]["upload"]["bytes_per_second"], serde_json::Value::Null);

        let mut file = File::open(drive.path("plate")).unwrap();
        let mut buffer = vec![0; MIB];
        let begun = Instant::now();
        for _ in 0..4 {
            file.read_exact(&mut buffer).unwrap();
        }
        let slow = begun.elapsed();
        assert!(slow > Duration::from_millis(1200), "4 MiB at 2 MiB/s took {slow:?}");
        let name = shown[0]["site"].as_str().unwrap().to_owned();
        let begun = Instant::now();
        let told = drive.tell(["limit", &name, "--download", "off"]);
        assert!(told.contains("no limit") && told.contains("by hand"), "{told}");
        let mut rest = Vec::new();
        file.read_to_end(&mut rest).unwrap();
        let fast = begun.elapsed();
        assert_eq!(rest.len(), 20 * MIB);
        assert!(
            fast < Duration::from_secs(8),
            "20 MiB, that took 10 s before, took {fast:?}"
        );
        assert!(rest.iter().all(|byte| *byte == b'A'));

        drive.tell(["limit", &name, "--download", "auto"]);
        let shown: serde_json::Value = serde_json::from_str(&drive.tell(["limit", "--json"])).unwrap();
        assert_eq!(shown[0]["download"]["bytes_per_second"], 2 * MIB);
        assert_eq!(shown[0]["download"]["by_hand"], false);
    });
}

#[test]
fn a_limit_that_makes_bytes_wait_longer_than_the_deadline_fails_no_read() {
    drive_test(|| {
        let site = tempfile::tempdir().unwrap();
        for name in ["plate", "small"] {
            fs::write(site.path().join(name), vec![b'A'; 24 * MIB]).unwrap();
        }
        // What reading the first file fetches ahead takes many times the deadline of 2 s; a reader comes in between.
        let drive = Builder::local(site.path())
            .site("download-limit", "1MiB/s")
            .build()
            .mounted();
        let plate = drive.path("plate");
        let (tell, told) = std::sync::mpsc::sync_channel(6);
        let player = std::thread::spawn(move || {
            let mut file = File::open(plate).unwrap();
            let mut buffer = vec![0; MIB];
            for _ in 0..6 {
                file.read_exact(&mut buffer).unwrap();
                let _nobody_listens_at_the_end = tell.send(());
            }
        });
        told.iter().take(2).for_each(drop);
        let begun = Instant::now();
        let mut buffer = vec![0; 4096];
        File::open(drive.path("small"))
            .unwrap()
            .read_exact_at(&mut buffer, 20 * MIB as u64)
            .unwrap();
        let waited = begun.elapsed();
        player.join().unwrap();
        println!("beside what is fetched ahead a reader waited {waited:?}");
        assert!(waited < Duration::from_secs(5), "{waited:?}");
        let status = drive.status();
        assert_eq!(status["sites"][0]["link"], "up", "{status}");
    });
}

#[test]
fn a_timetable_says_until_when_and_nonsense_is_told() {
    drive_test(|| {
        let site = tempfile::tempdir().unwrap();
        let drive = Builder::local(site.path())
            .site("upload-limit", "08:00,1M/s 19:00,off")
            .build()
            .mounted();
        let told = drive.tell(["limit"]);
        assert!(told.contains("more") && told.contains("08:00,1MB 19:00,off"), "{told}");
        let shown: serde_json::Value = serde_json::from_str(&drive.tell(["limit", "--json"])).unwrap();
        let name = shown[0]["site"].as_str().unwrap().to_owned();
        for (args, said) in [
            (["limit", "nowhere", "--upload", "1M"], "no site `nowhere`"),
            (["limit", &name, "--upload", "fast"], "`fast` is not a rate"),
            (["limit", &name, "--upload", "0"], "nothing through"),
        ] {
            let refused = drive.refused(args);
            assert!(refused.said.contains(said), "{refused:?}");
        }
    });
}
