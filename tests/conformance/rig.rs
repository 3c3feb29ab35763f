//! What the suite runs over: sites of each kind, and a way to change them behind the provider's back.

use std::fs;
use std::os::unix::ffi::OsStrExt;
use std::os::unix::fs::{PermissionsExt, symlink};
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::{AtomicI64, Ordering};
use std::time::{Duration, SystemTime};

use backlot::model::{Name, RelPath};
use backlot::providers::exec::ExecSite;
use backlot::providers::gdrive::GdriveSite;
use backlot::providers::layers::{
    Fault, Faults, FlakyLayer, Layer, Limits, LinkControl, LinkLayer, Meter, MeterLayer, RetryLayer, RetryPolicy, Rule,
    ThrottleLayer,
};
use backlot::providers::local::LocalSite;
use backlot::providers::memory::MemorySite;
use backlot::providers::s3::S3Site;
use backlot::providers::sftp::SftpSite;
use backlot::providers::webdav::WebdavSite;
use backlot::providers::{ErrorKind, Op, Provider};

use crate::dav::DavBack;
use crate::drive::DriveBack;
use crate::gdrive::DriveDouble;
use crate::objects::BucketBack;
use crate::sshd::Sshd;
use crate::web::{Service, WebServer};

/// The site as another of its users sees it.
pub(crate) trait Back: Send + Sync {
    /// Puts a file under the name in one step, with the folders above it; its version is a new one.
    fn put(&self, path: &RelPath, bytes: &[u8]);
    /// Cuts a file short where it is, or changes bytes where they are, if the kind of site can.
    fn overwrite(&self, path: &RelPath, bytes: &[u8]);
    /// Returns a file's bytes.
    fn get(&self, path: &RelPath) -> Option<Vec<u8>>;
    fn put_link(&self, path: &RelPath, target: &[u8]);
    fn put_dir(&self, path: &RelPath);
    /// Names in a folder, hidden and temporary ones too; uploads under way that have no name count as one.
    fn names(&self, dir: &RelPath) -> Vec<Vec<u8>>;
    /// Makes the site refuse a path to us. Returns whether it can.
    fn deny(&self, path: &RelPath) -> bool;
    /// Whether files have permission bits at this kind of site.
    fn has_perms(&self) -> bool {
        false
    }
    /// Whether the site names a hash of what was uploaded, if it names any.
    fn hashes_uploads(&self) -> bool {
        true
    }
    /// Takes the whole site's root away, as an unmounted volume does. Returns whether it can.
    fn hide_root(&self) -> bool;
}

/// One site, fresh and empty.
pub(crate) struct Rig {
    pub(crate) provider: Arc<dyn Provider>,
    pub(crate) back: Arc<dyn Back>,
    /// Makes another provider of the same site, as after a restart.
    pub(crate) again: Box<dyn Fn() -> Arc<dyn Provider> + Send + Sync>,
    _dir: Option<tempfile::TempDir>,
}

/// A layer to wrap a site in.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) enum Wrap {
    None,
    Meter,
    Retry,
    Throttle,
    Flaky,
    Link,
    /// As `build` does.
    All,
    /// Retry over a layer that makes one call in five go wrong.
    Broken,
}

/// A kind of site.
#[derive(Clone)]
pub(crate) enum Kind {
    Memory,
    Local,
    Sftp(Arc<Sshd>),
    /// The example of docs/examples.
    Exec,
    S3(Arc<WebServer>),
    Drive(DriveDouble),
    Webdav(Arc<WebServer>),
}

impl Kind {
    /// `rclone serve s3` opens what it reads by its name, and does not keep it while it is replaced.
    pub(crate) fn reads_by_name(&self) -> bool {
        matches!(self, Self::S3(server) if server.service == Service::RcloneS3)
    }

    /// Makes a fresh site; what strikes is counted in `faults`.
    pub(crate) fn rig(&self, wrap: Wrap, faults: &Arc<Faults>) -> Rig {
        let faults = Arc::clone(faults);
        let wrapped = move |make: Box<dyn Fn() -> Arc<dyn Provider> + Send + Sync>| {
            let again: Box<dyn Fn() -> Arc<dyn Provider> + Send + Sync> =
                Box::new(move || wrap_in(wrap, make(), &faults));
            (again(), again)
        };
        match self {
            Self::Memory => {
                let site = MemorySite::new();
                let back = Arc::new(site.clone());
                let (provider, again) = wrapped(Box::new(move || Arc::new(site.clone())));
                Rig {
                    provider,
                    back,
                    again,
                    _dir: None,
                }
            }
            Self::Local => {
                let dir = tempfile::tempdir().unwrap();
                let root = dir.path().join("root");
                fs::create_dir(&root).unwrap();
                let back = Arc::new(Folder::new(&root, true));
                let idle = Duration::from_secs(30);
                let (provider, again) = wrapped(Box::new(move || Arc::new(LocalSite::new(&root, None, idle))));
                Rig {
                    provider,
                    back,
                    again,
                    _dir: Some(dir),
                }
            }
            Self::Exec => {
                let dir = tempfile::tempdir().unwrap();
                let root = dir.path().join("root");
                fs::create_dir(&root).unwrap();
                let (command, denies) = example_program(&root);
                let settings = backlot_config::ExecSite {
                    command,
                    ..backlot_config::ExecSite::default()
                };
                let back = Arc::new(Folder::new(&root, denies));
                let idle = Duration::from_secs(30);
                let (provider, again) = wrapped(Box::new(move || {
                    Arc::new(ExecSite::new(&settings, None, idle).unwrap())
                }));
                Rig {
                    provider,
                    back,
                    again,
                    _dir: Some(dir),
                }
            }
            Self::Drive(double) => {
                let name = uuid::Uuid::new_v4().to_string();
                let top = double.dir("0root", &name);
                let settings = double.settings(&format!("/My Drive/{name}"));
                let back = Arc::new(DriveBack {
                    double: double.clone(),
                    top,
                });
                let idle = Duration::from_secs(30);
                let (provider, again) = wrapped(Box::new(move || {
                    Arc::new(GdriveSite::new(&settings, None, idle).unwrap())
                }));
                Rig {
                    provider,
                    back,
                    again,
                    _dir: None,
                }
            }
            Self::S3(server) => {
                let back = Arc::new(BucketBack::new(server));
                let settings = server.s3(back.name());
                let idle = Duration::from_secs(30);
                let (provider, again) =
                    wrapped(Box::new(move || Arc::new(S3Site::new(&settings, None, idle).unwrap())));
                Rig {
                    provider,
                    back,
                    again,
                    _dir: None,
                }
            }
            Self::Webdav(server) => {
                let dir = tempfile::tempdir_in(server.root()).unwrap();
                let root = dir.path().join("root");
                let name = dir.path().file_name().unwrap().to_str().unwrap().to_owned();
                // The server runs as we do.
                let folder = Folder {
                    perms: false,
                    ..Folder::new(&root, false)
                };
                let (settings, back): (_, Arc<dyn Back>) = if server.service == Service::RcloneDav {
                    // Above the folder of this rig: the server has not seen it yet.
                    let settings = server.webdav(&format!("{name}.dav/root"));
                    let root = dir.path().with_file_name(format!("{name}.dav")).join("root");
                    let folder = Folder { root, ..folder };
                    let back = DavBack::new(folder, &settings.url);
                    (settings, Arc::new(back))
                } else {
                    fs::create_dir(&root).unwrap();
                    (server.webdav(&format!("{name}/root")), Arc::new(folder))
                };
                let idle = Duration::from_secs(30);
                let (provider, again) = wrapped(Box::new(move || {
                    Arc::new(WebdavSite::new(&settings, None, idle).unwrap())
                }));
                Rig {
                    provider,
                    back,
                    again,
                    _dir: Some(dir),
                }
            }
            Self::Sftp(server) => {
                let dir = tempfile::tempdir_in(server.root()).unwrap();
                let root = dir.path().join("root");
                fs::create_dir(&root).unwrap();
                let settings = server.settings(&root);
                let drops_powers = server.file("sshd_config");
                let drops_powers = fs::read_to_string(drops_powers).unwrap().contains("dac_override");
                let denies = drops_powers || !rustix::process::geteuid().is_root();
                let back = Arc::new(Folder::new(&root, denies));
                let idle = Duration::from_secs(30);
                let (provider, again) = wrapped(Box::new(move || {
                    Arc::new(SftpSite::new(&settings, None, idle).unwrap())
                }));
                Rig {
                    provider,
                    back,
                    again,
                    _dir: Some(dir),
                }
            }
        }
    }
}

/// The example provider for a folder, and whether anything is refused to it: where this runs as root, a program loses the
/// power to pass over permissions by `setpriv`, if that is installed.
pub(crate) fn example_program(root: &Path) -> (Vec<String>, bool) {
    let example = concat!(env!("CARGO_MANIFEST_DIR"), "/docs/examples/folder_provider.py");
    let program = ["python3", example, root.to_str().unwrap()].map(str::to_owned);
    if !rustix::process::geteuid().is_root() {
        return (program.to_vec(), true);
    }
    let powers = "-dac_override,-dac_read_search";
    let others = ["setpriv", "--bounding-set", powers, "--inh-caps", powers].map(str::to_owned);
    let there = std::process::Command::new("setpriv").arg("--version").output().is_ok();
    match there {
        true => ([&others[..], &program].concat(), true),
        false => (program.to_vec(), false),
    }
}

fn wrap_in(wrap: Wrap, inner: Arc<dyn Provider>, faults: &Arc<Faults>) -> Arc<dyn Provider> {
    let meter = |inner| MeterLayer::new(Arc::new(Meter::default())).over(inner);
    let retry = |inner| {
        let policy = RetryPolicy {
            tries: 20,
            first: Duration::from_millis(1),
            cap: Duration::from_millis(20),
        };
        RetryLayer::new(policy).over(inner)
    };
    let throttle = |inner| ThrottleLayer::new(Arc::new(Limits::new(Some(1 << 32), Some(1 << 32)))).over(inner);
    let link = |inner| {
        let control = LinkControl::new(Duration::from_millis(1), Some(1 << 32), Duration::from_secs(30));
        LinkLayer::new(Arc::new(control)).over(inner)
    };
    match wrap {
        Wrap::None => inner,
        Wrap::Meter => meter(inner),
        Wrap::Retry => retry(inner),
        Wrap::Throttle => throttle(inner),
        Wrap::Flaky => FlakyLayer::new(Faults::new(1)).over(inner),
        Wrap::Link => link(inner),
        Wrap::All => meter(retry(throttle(link(inner)))),
        Wrap::Broken => {
            for op in [
                Op::Stat,
                Op::Upload,
                Op::Commit,
                Op::Abort,
                Op::MakeDir,
                Op::Rename,
                Op::Delete,
                Op::Space,
            ] {
                faults.add(Rule::one_in(op, Fault::Fail(ErrorKind::Unreachable), 5));
            }
            faults.add(Rule::one_in(Op::Commit, Fault::LoseAnswer(ErrorKind::TimedOut), 3));
            faults.add(Rule::one_in(Op::Read, Fault::Cut(70_000), 4));
            faults.add(Rule::one_in(Op::Read, Fault::Truncate(10_000), 4));
            faults.add(Rule::one_in(Op::List, Fault::Cut(1), 4));
            retry(FlakyLayer::new(Arc::clone(faults)).over(inner))
        }
    }
}

impl Back for MemorySite {
    fn put(&self, path: &RelPath, bytes: &[u8]) {
        Self::put(self, path, bytes.to_vec()).unwrap();
    }

    fn overwrite(&self, path: &RelPath, bytes: &[u8]) {
        Self::put(self, path, bytes.to_vec()).unwrap();
    }

    fn get(&self, path: &RelPath) -> Option<Vec<u8>> {
        Self::get(self, path).map(|b| b.to_vec())
    }

    fn put_link(&self, path: &RelPath, target: &[u8]) {
        Self::put_link(self, path, target).unwrap();
    }

    fn put_dir(&self, path: &RelPath) {
        Self::put_dir(self, path).unwrap();
    }

    fn names(&self, dir: &RelPath) -> Vec<Vec<u8>> {
        let mut names: Vec<Vec<u8>> = Self::names(self, dir).iter().map(|n| n.to_vec()).collect();
        names.extend((0..self.uploads_under_way()).map(|_| b"an upload".to_vec()));
        names
    }

    fn has_perms(&self) -> bool {
        true
    }

    fn deny(&self, path: &RelPath) -> bool {
        Self::deny(self, path, true);
        true
    }

    fn hide_root(&self) -> bool {
        false
    }
}

/// A folder of this machine, served by whatever is tested.
pub(crate) struct Folder {
    root: PathBuf,
    denies: bool,
    /// Whether the kind of site shows permissions.
    perms: bool,
    /// Seconds since 1970 of the next change: versions differ even where time has steps of a second.
    clock: AtomicI64,
}

impl Folder {
    fn new(root: &Path, denies: bool) -> Self {
        Self {
            root: root.to_owned(),
            denies,
            perms: true,
            clock: AtomicI64::new(1_600_000_000),
        }
    }

    fn at(&self, path: &RelPath) -> PathBuf {
        self.root.join(path.as_os_str())
    }

    fn date(&self, file: &Path) {
        let now = self.clock.fetch_add(1, Ordering::Relaxed);
        let now = SystemTime::UNIX_EPOCH + Duration::from_secs(now.unsigned_abs());
        fs::File::options()
            .write(true)
            .open(file)
            .unwrap()
            .set_modified(now)
            .unwrap();
    }
}

impl Back for Folder {
    fn put(&self, path: &RelPath, bytes: &[u8]) {
        let target = self.at(path);
        fs::create_dir_all(target.parent().unwrap()).unwrap();
        let temp = self.root.with_file_name("being put");
        fs::write(&temp, bytes).unwrap();
        self.date(&temp);
        fs::rename(temp, target).unwrap();
    }

    fn overwrite(&self, path: &RelPath, bytes: &[u8]) {
        fs::write(self.at(path), bytes).unwrap();
        self.date(&self.at(path));
    }

    fn get(&self, path: &RelPath) -> Option<Vec<u8>> {
        fs::read(self.at(path)).ok()
    }

    fn put_link(&self, path: &RelPath, target: &[u8]) {
        let at = self.at(path);
        fs::create_dir_all(at.parent().unwrap()).unwrap();
        symlink(std::ffi::OsStr::from_bytes(target), at).unwrap();
    }

    fn put_dir(&self, path: &RelPath) {
        fs::create_dir_all(self.at(path)).unwrap();
    }

    fn names(&self, dir: &RelPath) -> Vec<Vec<u8>> {
        let rows = fs::read_dir(self.at(dir)).unwrap();
        rows.map(|row| row.unwrap().file_name().as_bytes().to_vec()).collect()
    }

    fn has_perms(&self) -> bool {
        self.perms
    }

    fn deny(&self, path: &RelPath) -> bool {
        if self.denies {
            fs::set_permissions(self.at(path), fs::Permissions::from_mode(0o0)).unwrap();
        }
        self.denies
    }

    /// Those that somebody noted with a file.
    fn hashes_uploads(&self) -> bool {
        false
    }

    fn hide_root(&self) -> bool {
        fs::rename(&self.root, self.root.with_file_name("away")).unwrap();
        true
    }
}

/// Makes a path of text.
pub(crate) fn path(text: &str) -> RelPath {
    RelPath::new(text).unwrap()
}

/// Makes a name of bytes.
pub(crate) fn name(bytes: &[u8]) -> Name {
    Name::new(bytes).unwrap()
}
