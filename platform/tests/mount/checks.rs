//! What is refused before anything is mounted, in words that help.

use std::fs;
use std::path::Path;
use std::sync::Arc;

use backlot_platform::fuse::{self, MountError, MountOptions};
use rustix::mount::{MountFlags, UnmountFlags};

use crate::memfs::MemFs;
use crate::rig::{Rig, bounded, is_root, mount_folder, mounts_at, skip, with_mount};

/// Asks for a mount in this very process, for cases that end before there is one.
pub(crate) fn refused(point: &Path) -> MountError {
    let rt = tokio::runtime::Builder::new_multi_thread()
        .worker_threads(1)
        .enable_all()
        .build()
        .expect("a runtime");
    let options = MountOptions::new(point, "backlot-test");
    fuse::mount(Arc::new(MemFs::new()), rt.handle().clone(), options).expect_err("must be refused")
}

#[test]
fn unsuitable_folders_are_refused_by_name() {
    let (_dir, point) = mount_folder();
    let missing = refused(&point.join("none"));
    assert!(
        matches!(&missing, MountError::Missing(path) if *path == point.join("none")),
        "{missing}"
    );
    assert!(missing.hint().contains("mkdir -p '"), "{}", missing.hint());
    fs::write(point.join("file"), "").expect("made");
    assert!(matches!(refused(&point.join("file")), MountError::NotAFolder(_)));
    assert!(matches!(refused(&point), MountError::NotEmpty(_)));
    std::os::unix::fs::symlink(&point, point.with_file_name("link")).expect("made");
    let through = refused(&point.with_file_name("link"));
    assert!(
        matches!(&through, MountError::NotEmpty(path) if *path == point),
        "links are resolved: {through}"
    );
}

#[test]
fn a_living_mount_is_left_alone_and_named() {
    with_mount("fs_name=studio,drive", |rig| {
        let error = refused(rig.point());
        let MountError::AlreadyMounted {
            source_name,
            fs_type,
            answers: true,
            ..
        } = &error
        else {
            panic!("{error}");
        };
        assert_eq!(
            (source_name.as_str(), fs_type.as_str()),
            ("studio,drive", "fuse.backlot")
        );
        assert!(error.hint().contains("umount"), "{}", error.hint());
        assert_eq!(fs::read(rig.path("hello")).expect("served on"), b"hello world\n");
        assert_eq!(mounts_at(rig.point()), 1);
    });
}

#[test]
fn a_dead_mount_of_another_program_is_not_ours_to_clear() {
    if skip() || !is_root() {
        return;
    }
    let (_dir, point) = mount_folder();
    bounded(&point.clone(), move || {
        let device = fs::File::options()
            .read(true)
            .write(true)
            .open("/dev/fuse")
            .expect("opened");
        let data = format!(
            "fd={},rootmode=40000,user_id=0,group_id=0\0",
            std::os::fd::AsRawFd::as_raw_fd(&device)
        );
        let data = std::ffi::CStr::from_bytes_with_nul(data.as_bytes()).expect("one NUL");
        rustix::mount::mount("other", &point, "fuse.other", MountFlags::empty(), data).expect("mounted");
        drop(device);
        let error = refused(&point);
        let left = mounts_at(&point);
        rustix::mount::unmount(&point, UnmountFlags::DETACH).expect("unmounted");
        assert!(
            matches!(&error, MountError::AlreadyMounted { fs_type, .. } if fs_type == "fuse.other"),
            "{error}"
        );
        assert_eq!(left, 1, "it is still there");
    });
}

#[test]
fn a_mount_inside_of_a_mount_keeps_it_busy_and_is_named() {
    if !is_root() {
        return;
    }
    with_mount("", |rig| {
        let inner = rig.path("rw");
        rustix::mount::mount("inner", &inner, "tmpfs", MountFlags::empty(), None).expect("mounted");
        let said = rig.ask("unmount");
        rustix::mount::unmount(&inner, UnmountFlags::DETACH).expect("unmounted");
        assert!(said.contains(&format!("mounted on {}", inner.display())), "{said}");
    });
}

#[test]
fn readahead_is_set_where_the_process_may() {
    with_mount("readahead=4194304", |rig| {
        let file = format!("/sys/class/bdi/0:{}/read_ahead_kb", rig.connection);
        let set = fs::read_to_string(file).expect("known").trim().to_owned();
        assert_eq!(set, if is_root() { "4096" } else { "128" });
    });
}

#[test]
fn mounting_twice_in_a_row_works() {
    if skip() {
        return;
    }
    let (_dir, point) = mount_folder();
    bounded(&point.clone(), move || {
        for _ in 0..3 {
            let rig = Rig::start(&point, "", None).expect("mounted");
            assert_eq!(fs::read(rig.path("hello")).expect("read"), b"hello world\n");
            rig.tell("unmount");
            rig.wait_ended();
        }
    });
}
