//! Trying a site out: does it answer, show its folders, take a file and give it back; and is its clock right.
//!
//! Owns: the steps and their words. Refuses to know: kinds of storage. Invariants: what is written has a name that no listing
//! shows and no project uses, and is removed again; a check that may only look writes nothing; each step ends.

use std::time::{Duration, Instant};

use bytes::Bytes;
use futures::StreamExt;

use super::SiteError;
use crate::engine::drive::{Inner, now_ns};
use crate::engine::report::{SiteCheckReport, SiteCheckStep};
use crate::engine::site::Site;
use crate::model::{Name, RelPath, Version};
use crate::providers::{ErrorKind, Op, ProviderError, UploadPlan};

/// Longer than any provider lets one operation be without progress.
const STEP_LIMIT: Duration = Duration::from_secs(60);
/// Rows of a folder that are counted.
const COUNTED: usize = 1000;
/// Bytes of the file that is written.
const PROBE_BYTES: usize = 4096;
const NS_PER_MS: i64 = 1_000_000;
/// File systems date by the kernel's tick, which is up to 10 ms long, however fine their times are.
const TICK_NS: u64 = 10_000_000;

/// The steps so far.
#[derive(Default)]
struct Steps(Vec<SiteCheckStep>);

impl Steps {
    /// Takes a step; says what it gave, if it went well.
    async fn take<T>(
        &mut self,
        step: &str,
        work: impl Future<Output = Result<T, ProviderError>>,
        said: impl FnOnce(&T) -> String,
    ) -> Option<T> {
        let begun = Instant::now();
        let done =
            match tokio::time::timeout(STEP_LIMIT, work).await {
                Ok(done) => done,
                Err(_elapsed) => Err(ProviderError::new(ErrorKind::TimedOut, Op::Probe)
                    .because(format!("no answer within {STEP_LIMIT:?}"))),
            };
        let ms = u64::try_from(begun.elapsed().as_millis()).unwrap_or(u64::MAX);
        let (ok, said, hint, value) = match done {
            Ok(value) => (true, said(&value), None, Some(value)),
            Err(e) => (false, e.to_string(), Some(e.hint().to_owned()), None),
        };
        self.0.push(SiteCheckStep {
            step: step.to_owned(),
            ok,
            ms,
            said,
            hint: hint.filter(|hint| !hint.is_empty()),
        });
        value
    }
}

impl Inner {
    /// Tries a site out. What is wrong with it is told in the answer.
    ///
    /// # Errors
    /// When there is no such site.
    pub async fn check_site(&self, name: &str, read_only: bool) -> Result<SiteCheckReport, SiteError> {
        let site = self.known_site(name)?;
        if site.link().is_down() {
            site.link().ask_anew().await;
        }
        let mut steps = Steps::default();
        let mut clock = None;
        if steps
            .take("connect", site.provider().probe(), |()| "it answers".to_owned())
            .await
            .is_some()
        {
            let counted = |n: &usize| match *n {
                COUNTED => format!("{COUNTED} entries or more"),
                n => format!("{n} entries"),
            };
            let root = RelPath::root();
            steps.take("list", count(site, &root), counted).await;
            for project in &self.projects {
                if self.role_of(project, site.name()).is_none() {
                    continue;
                }
                let at = project.path_at(site.name());
                let step = format!("project {}", project.name);
                let there = async {
                    match count(site, &at).await {
                        Err(e) if e.kind == ErrorKind::NotFound => Ok(None),
                        counted => counted.map(Some),
                    }
                };
                let shown = if at.is_root() { ".".to_owned() } else { at.to_string() };
                let said = |n: &Option<usize>| match n {
                    Some(n) => format!("{shown}: {}", counted(n)),
                    None => format!("{shown}: not there yet; the first file that is sent makes it"),
                };
                steps.take(&step, there, said).await;
            }
            if !read_only {
                clock = write_and_remove(site, &mut steps).await;
            }
        }
        let (ahead, step) = clock.unzip();
        Ok(SiteCheckReport {
            site: name.to_owned(),
            ok: steps.0.iter().all(|step| step.ok),
            steps: steps.0,
            clock_ahead_ms: ahead,
            clock_step_ms: step,
        })
    }
}

async fn count(site: &Site, dir: &RelPath) -> Result<usize, ProviderError> {
    let mut rows = site.provider().list(dir);
    let mut counted = 0;
    while counted < COUNTED
        && let Some(row) = rows.next().await
    {
        row?;
        counted += 1;
    }
    Ok(counted)
}

/// A name that no listing shows: that of a file that is being uploaded.
fn hidden(what: &str) -> Option<Name> {
    let nonce = uuid::Uuid::new_v4().simple();
    Name::new(format!(".backlot-{what}-{nonce}.part").into_bytes()).ok()
}

/// Writes a file, reads it back and removes it; returns what that told of the site's clock.
async fn write_and_remove(site: &Site, steps: &mut Steps) -> Option<(i64, u64)> {
    let path = RelPath::root().join(&hidden("check")?);
    let provider = site.provider();
    let bytes: Vec<u8> = (0..PROBE_BYTES).map(|i| (i % 251).to_le_bytes()[0]).collect();
    let before = now_ns();
    let written = steps
        .take("write", write(site, &path, bytes.clone()), |_| {
            format!("a file of {PROBE_BYTES} bytes")
        })
        .await;
    let after = now_ns();
    let Some(version) = written else {
        // What may have come all the same goes, as far as the site lets it.
        drop(tokio::time::timeout(STEP_LIMIT, provider.delete(&path)).await);
        return None;
    };
    let read = async {
        let mut chunks = provider.read(&path, &version, 0..PROBE_BYTES as u64);
        let mut got = Vec::new();
        while let Some(chunk) = chunks.next().await {
            got.extend_from_slice(&chunk?);
        }
        if got == bytes {
            return Ok(());
        }
        Err(ProviderError::new(ErrorKind::Protocol, Op::Read)
            .at(&path)
            .because("what came back is not what was written"))
    };
    steps.take("read back", read, |()| "the same bytes".to_owned()).await;
    let capabilities = provider.capabilities();
    let mut clock = None;
    if !capabilities.keeps_mtime {
        // The site dates files itself.
        if let Ok(entry) = provider.stat(&path).await {
            clock = skew(entry.mtime_ns, (before, after), capabilities.mtime_step_ns);
        }
    }
    let removed = async {
        provider.delete(&path).await?;
        match provider.stat(&path).await {
            Err(e) if e.kind == ErrorKind::NotFound => Ok(()),
            Err(e) => Err(e),
            Ok(_) => Err(ProviderError::new(ErrorKind::Protocol, Op::Delete)
                .at(&path)
                .because("the site said that it is gone, and it is there")),
        }
    };
    steps.take("remove", removed, |()| "gone again".to_owned()).await;
    if clock.is_none() && capabilities.keeps_mtime {
        clock = clock_of_a_folder(site, capabilities.mtime_step_ns).await;
    }
    if let Some((ahead, _)) = clock {
        let said = match ahead {
            0 => "right, as well as can be told".to_owned(),
            ms if ms > 0 => format!("{ms} ms ahead of this machine's"),
            ms => format!("{} ms behind this machine's", ms.unsigned_abs()),
        };
        steps.take("clock", async { Ok(()) }, |()| said).await;
    }
    clock
}

async fn write(site: &Site, path: &RelPath, bytes: Vec<u8>) -> Result<Version, ProviderError> {
    let provider = site.provider();
    let plan = UploadPlan {
        path: path.clone(),
        size: bytes.len() as u64,
        mtime_ns: now_ns(),
        perm: None,
        part_size: bytes.len() as u64,
        nonce: uuid::Uuid::new_v4().simple().to_string(),
    };
    let token = provider.begin_upload(&plan).await?;
    let sent = provider.upload_part(&token, 0, Bytes::from(bytes)).await;
    match sent {
        Ok(part) => provider.commit(token, &[part], Some(None)).await,
        Err(e) => {
            drop(provider.abort(token).await);
            Err(e)
        }
    }
}

/// Has the site date a folder: sites that give files the time they are told date folders themselves.
async fn clock_of_a_folder(site: &Site, step_ns: u64) -> Option<(i64, u64)> {
    let path = RelPath::root().join(&hidden("clock")?);
    let provider = site.provider();
    let before = now_ns();
    provider.make_dir(&path).await.ok()?;
    let after = now_ns();
    let entry = provider.stat(&path).await;
    drop(provider.delete(&path).await);
    skew(entry.ok()?.mtime_ns, (before, after), step_ns)
}

/// By how many milliseconds a clock is ahead that showed `shown` at some moment of a span, and how finely it can be told;
/// `None` where the site showed no time.
fn skew(shown: i64, (before, after): (i64, i64), step_ns: u64) -> Option<(i64, u64)> {
    if shown <= 0 {
        return None;
    }
    let step = i64::try_from(step_ns.max(TICK_NS)).unwrap_or(i64::MAX);
    // It showed a time of its step at the latest, and one of the span was it.
    let (least, most) = (
        shown.saturating_sub(after),
        shown.saturating_add(step).saturating_sub(before),
    );
    let ahead = if least > 0 {
        least
    } else if most < 0 {
        most
    } else {
        0
    };
    let finely = most.saturating_sub(least) / NS_PER_MS;
    Some((ahead / NS_PER_MS, finely.unsigned_abs()))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_clock_is_told_as_finely_as_it_shows() {
        let ms = |n: i64| n * NS_PER_MS;
        // Whole seconds: between 1.2 s and 1.3 s of ours it shows 1 s.
        assert_eq!(skew(ms(1000), (ms(1200), ms(1300)), 1_000_000_000), Some((0, 1100)));
        assert_eq!(
            skew(ms(61_000), (ms(1200), ms(1300)), 1_000_000_000),
            Some((59_700, 1100))
        );
        assert_eq!(
            skew(ms(1000), (ms(61_200), ms(61_300)), 1_000_000_000),
            Some((-59_200, 1100))
        );
        // Nanoseconds.
        assert_eq!(skew(ms(1250), (ms(1200), ms(1300)), 1), Some((0, 110)));
        assert_eq!(
            skew(ms(1195), (ms(1200), ms(1201)), 1),
            Some((0, 11)),
            "by the last tick"
        );
        assert_eq!(skew(0, (ms(1200), ms(1300)), 1), None, "a site without times");
    }
}
