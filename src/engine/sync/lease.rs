//! Who keeps a site in step, when several services could.
//!
//! Owns: a small file at the site, which whoever serves a project there renews. Refuses to know: what is served. Invariants:
//! whether the holder lives is judged by whether the file changes, by the judge's own clock: clocks that differ do no harm; a
//! lease that may be another's is not worked under.
//!
//! Two that work at once all the same (a site without conditional writes, a network that was cut) waste requests and nothing
//! else: a copy replaces what it was decided to replace, and nothing besides.

use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use futures::StreamExt;
use serde::{Deserialize, Serialize};
use tokio::task::JoinHandle;
use tokio::time::Instant;
use tokio_util::sync::CancellationToken;
use tracing::{debug, warn};
use uuid::Uuid;

use crate::engine::drive::now_ns;
use crate::engine::site::Site;
use crate::model::{Name, ProjectName, RelPath, Version};
use crate::providers::{ErrorKind, ProviderError, UploadPlan};

/// Larger than any note that this program writes.
const NOTE_MAX: u64 = 4096;
/// The shortest wait between two looks at another's lease.
const LOOK_MIN: Duration = Duration::from_millis(200);

/// What is in the file.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize)]
pub(super) struct Note {
    /// The holder's site id.
    pub(super) service: String,
    /// The holder's state store: one that is locked by one process alone.
    pub(super) store: String,
    /// Counts renewals, so that each changes the file.
    pub(super) renewals: u64,
}

/// A lease that is held: renewed in the background until it is released.
#[derive(Debug)]
pub(super) struct Lease {
    file: Arc<LeaseFile>,
    lost: CancellationToken,
    done: CancellationToken,
    keeper: JoinHandle<()>,
}

#[derive(Debug)]
struct LeaseFile {
    site: Arc<Site>,
    path: RelPath,
}

/// Where the lease of a project is at a site. No listing shows it, as it has the form of an unfinished upload.
fn path_of(dir: &RelPath, project: &ProjectName) -> Option<RelPath> {
    let name = Name::new(format!(".backlot-sync-{project}.part").into_bytes()).ok()?;
    Some(dir.join(&name))
}

/// Waits until nobody else holds the lease, and takes it. `told` hears who holds it, each time that is looked at. `None` when
/// `stop` comes first.
pub(super) async fn take(
    site: &Arc<Site>,
    dir: &RelPath,
    project: &ProjectName,
    mut note: Note,
    ttl: Duration,
    stop: &CancellationToken,
    mut told: impl FnMut(&str),
) -> Result<Option<Lease>, ProviderError> {
    let Some(path) = path_of(dir, project) else {
        return Ok(None);
    };
    let file = LeaseFile {
        site: Arc::clone(site),
        path,
    };
    let mut watched: Option<(Version, Instant)> = None;
    loop {
        let there = file.look().await?;
        let (replaces, may) = match &there {
            None => (None, true),
            Some((version, holder)) => {
                let since = match &watched {
                    Some((known, since)) if known == version => *since,
                    _ => Instant::now(),
                };
                watched = Some((version.clone(), since));
                // A file that is no note is somebody's whose program is another; it goes by the same rule.
                let ours = holder.as_ref().is_some_and(|holder| holder.store == note.store);
                if !ours {
                    told(
                        holder
                            .as_ref()
                            .map_or("another program", |holder| holder.service.as_str()),
                    );
                }
                (Some(version.clone()), ours || since.elapsed() >= ttl)
            }
        };
        if may {
            match file.write(&note, replaces.as_ref()).await {
                Ok(version) => return Ok(Some(Lease::keep(file, note, version, ttl))),
                // Somebody was faster.
                Err(e) if matches!(e.kind, ErrorKind::VersionMismatch | ErrorKind::Exists) => watched = None,
                Err(e) => return Err(e),
            }
            note.renewals += 1;
        }
        let wait = (ttl / 4).max(LOOK_MIN);
        if stop.run_until_cancelled(tokio::time::sleep(wait)).await.is_none() {
            return Ok(None);
        }
    }
}

impl Lease {
    fn keep(file: LeaseFile, note: Note, version: Version, ttl: Duration) -> Self {
        let (file, lost, done) = (Arc::new(file), CancellationToken::new(), CancellationToken::new());
        let ends = (lost.clone(), done.clone());
        let keeper = tokio::spawn(renew(Arc::clone(&file), note, version, ttl, ends));
        Self {
            file,
            lost,
            done,
            keeper,
        }
    }

    /// Fires when the lease may be another's.
    pub(super) fn lost(&self) -> &CancellationToken {
        &self.lost
    }

    /// Gives the lease up, so that another need not wait for its end.
    pub(super) async fn release(self) {
        // A renewal that is under way ends first, so that it leaves nothing behind.
        self.done.cancel();
        drop(self.keeper.await);
        if self.lost.is_cancelled() {
            return;
        }
        if let Err(e) = self.file.site.provider().delete(&self.file.path).await {
            debug!(path = %self.file.path, error = %e, "the lease stays until it runs out");
        }
    }
}

/// Renews a lease until it is lost or done with.
async fn renew(
    file: Arc<LeaseFile>,
    mut note: Note,
    mut version: Version,
    ttl: Duration,
    (lost, done): (CancellationToken, CancellationToken),
) {
    let mut renewed = Instant::now();
    loop {
        if done.run_until_cancelled(tokio::time::sleep(ttl / 3)).await.is_none() {
            return;
        }
        note.renewals += 1;
        match file.write(&note, Some(&version)).await {
            Ok(now) => {
                version = now;
                renewed = Instant::now();
            }
            Err(e) if matches!(e.kind, ErrorKind::VersionMismatch | ErrorKind::NotFound) => {
                warn!(path = %file.path, "the lease of the sync service was taken by another");
                return lost.cancel();
            }
            Err(e) => {
                file.site.link().failed(&e);
                if renewed.elapsed() >= ttl {
                    warn!(path = %file.path, error = %e, "the lease of the sync service could not be renewed in time");
                    return lost.cancel();
                }
            }
        }
    }
}

impl LeaseFile {
    /// Returns the version of the file and the note in it, if one can be read; `None` where no file is.
    async fn look(&self) -> Result<Option<(Version, Option<Note>)>, ProviderError> {
        let provider = self.site.provider();
        let entry = match provider.stat(&self.path).await {
            Ok(entry) => entry,
            Err(e) if e.kind == ErrorKind::NotFound => return Ok(None),
            Err(e) => return Err(e),
        };
        let mut bytes = Vec::new();
        if entry.size <= NOTE_MAX {
            let mut chunks = provider.read(&self.path, &entry.version, 0..entry.size);
            while let Some(chunk) = chunks.next().await {
                match chunk {
                    Ok(chunk) => bytes.extend_from_slice(&chunk),
                    // It changes just now: its holder lives.
                    Err(_) => break,
                }
            }
        }
        Ok(Some((entry.version, serde_json::from_slice(&bytes).ok())))
    }

    async fn write(&self, note: &Note, replaces: Option<&Version>) -> Result<Version, ProviderError> {
        let provider = self.site.provider();
        let bytes = serde_json::to_vec(note).unwrap_or_default();
        let plan = UploadPlan {
            path: self.path.clone(),
            size: bytes.len() as u64,
            mtime_ns: now_ns(),
            perm: None,
            part_size: NOTE_MAX,
            nonce: Uuid::new_v4().simple().to_string(),
        };
        let token = provider.begin_upload(&plan).await?;
        let sent = async {
            let part = provider.upload_part(&token, 0, Bytes::from(bytes)).await?;
            provider.commit(token.clone(), &[part], Some(replaces)).await
        };
        match sent.await {
            Ok(version) => Ok(version),
            Err(e) => {
                drop(provider.abort(token).await);
                Err(e)
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use std::sync::Mutex;

    use super::*;
    use crate::model::SiteName;
    use crate::providers::memory::MemorySite;

    const TTL: Duration = Duration::from_secs(60);

    fn site() -> Arc<Site> {
        Site::new(SiteName("vault".to_owned()), Arc::new(MemorySite::new()), None, 4)
    }

    fn note(service: &str) -> Note {
        Note {
            service: service.to_owned(),
            store: Uuid::new_v4().to_string(),
            renewals: 0,
        }
    }

    fn project() -> ProjectName {
        ProjectName("demo".to_owned())
    }

    async fn taken(site: &Arc<Site>, note: Note, told: &Mutex<Vec<String>>) -> Lease {
        let stop = CancellationToken::new();
        let tell = |holder: &str| told.lock().unwrap().push(holder.to_owned());
        let lease = take(site, &RelPath::root(), &project(), note, TTL, &stop, tell).await;
        lease.unwrap().expect("nobody stops it")
    }

    #[tokio::test(start_paused = true)]
    async fn a_lease_that_is_renewed_is_nobody_elses_and_one_that_is_not_goes_over() {
        let (site, told) = (site(), Arc::new(Mutex::default()));
        let first = taken(&site, note("first"), &told).await;
        let waits = tokio::spawn({
            let (site, told) = (Arc::clone(&site), Arc::clone(&told));
            async move { taken(&site, note("second"), &told).await }
        });
        tokio::time::sleep(TTL * 10).await;
        assert!(!waits.is_finished(), "the first renews it");
        let heard = told.lock().unwrap().clone();
        assert!(
            heard.len() > 10 && heard.iter().all(|holder| holder == "first"),
            "{heard:?}"
        );
        // As a crash would.
        first.keeper.abort();
        let died = Instant::now();
        let second = waits.await.unwrap();
        let took = died.elapsed();
        assert!(took > TTL / 2 && took <= TTL * 2, "{took:?}");
        tokio::time::sleep(TTL * 3).await;
        assert!(!second.lost().is_cancelled());
    }

    #[tokio::test(start_paused = true)]
    async fn a_service_that_crashed_has_its_own_lease_at_once() {
        let (site, told, ours) = (site(), Mutex::default(), note("ours"));
        let first = taken(&site, ours.clone(), &told).await;
        first.keeper.abort();
        let begun = Instant::now();
        taken(&site, ours, &told).await;
        assert_eq!(begun.elapsed(), Duration::ZERO);
        assert_eq!(*told.lock().unwrap(), Vec::<String>::new());
    }

    #[tokio::test(start_paused = true)]
    async fn whose_lease_was_taken_hears_of_it_and_leaves_it_alone() {
        let (site, told) = (site(), Mutex::default());
        let lease = taken(&site, note("slow"), &told).await;
        let (version, _) = lease.file.look().await.unwrap().unwrap();
        let theirs = lease.file.write(&note("quick"), Some(&version)).await.unwrap();
        tokio::time::timeout(TTL, lease.lost().cancelled())
            .await
            .expect("told with the next renewal");
        let file = Arc::clone(&lease.file);
        lease.release().await;
        assert_eq!(file.look().await.unwrap().unwrap().0, theirs);
    }

    #[tokio::test(start_paused = true)]
    async fn a_lease_that_is_given_up_is_gone() {
        let (site, told) = (site(), Mutex::default());
        let lease = taken(&site, note("first"), &told).await;
        let file = Arc::clone(&lease.file);
        lease.release().await;
        assert_eq!(file.look().await.unwrap(), None);
        let begun = Instant::now();
        taken(&site, note("second"), &told).await;
        assert_eq!(begun.elapsed(), Duration::ZERO);
    }
}
