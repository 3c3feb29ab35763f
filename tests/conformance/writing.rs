//! Cases of uploads, and of changing the tree.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use backlot::model::{EntryKind, RelPath};
use backlot::providers::{ErrorKind, PartDone, UploadToken};

use crate::rig::{Rig, name, path};
use crate::suite::{Outcome, as_kept, content, fit, part, plan, read, send, upload};

pub(crate) async fn an_upload_arrives_whole_and_dated(rig: Rig) -> Outcome {
    let p = &*rig.provider;
    for (file, size, part_size) in [
        ("new/dir/a", 2_500_000, 1 << 20),
        ("new/dir/b", 1, 1),
        ("new/dir/empty", 0, 1 << 20),
    ] {
        let (size, part_size) = fit(p, size, part_size);
        let (at, bytes) = (path(file), content(1, size));
        let plan = plan(&at, size, part_size);
        let (token, done) = send(p, &plan, &bytes).await;
        assert_eq!(rig.back.get(&at), None, "not there before the commit");
        let version = p.commit(token, &done, None).await.unwrap();
        assert!(rig.back.get(&at).unwrap() == bytes, "{file}");
        let entry = p.stat(&at).await.unwrap();
        let perm = rig.back.has_perms().then_some(0o640);
        assert_eq!(
            (entry.version, entry.size, entry.perm),
            (version.clone(), plan.size, perm)
        );
        if p.capabilities().keeps_mtime {
            assert_eq!(entry.mtime_ns, as_kept(&p.capabilities(), plan.mtime_ns));
        }
        assert!(read(p, &at, &version, 0..plan.size).await.unwrap() == bytes);
    }
    assert_eq!(
        rig.back.names(&path("new/dir")).len(),
        3,
        "and nothing is left beside them"
    );
    let plain = plan(&path("plain"), 0, 1);
    let token = p
        .begin_upload(&backlot::providers::UploadPlan { perm: None, ..plain })
        .await
        .unwrap();
    p.commit(token, &[], None).await.unwrap();
    let perm = p.stat(&path("plain")).await.unwrap().perm;
    let readable = perm.is_some_and(|perm| perm & 0o600 == 0o600);
    assert_eq!(readable, rig.back.has_perms(), "the site's own default");
    let root = p.begin_upload(&plan(&RelPath::root(), 1, 1)).await.unwrap_err();
    assert_eq!(root.kind, ErrorKind::Invalid);
    Outcome::Ran
}

pub(crate) async fn parts_in_any_order_and_again(rig: Rig) -> Outcome {
    let p = &*rig.provider;
    if p.capabilities().parts_in_order {
        return Outcome::Skipped("the parts of a file must come in their order at this kind of site, and it says so");
    }
    let (size, part_size) = fit(p, 1_000_000, 300_000);
    let (at, bytes) = (path("file"), content(1, size));
    let plan = plan(&at, bytes.len(), part_size);
    let token = p.begin_upload(&plan).await.unwrap();
    let mut done = Vec::new();
    for index in [3, 1, 0, 1, 2, 3] {
        done.push(p.upload_part(&token, index, part(&plan, &bytes, index)).await.unwrap());
    }
    let short = p
        .upload_part(&token, 0, part(&plan, &bytes, 0).slice(1..))
        .await
        .unwrap_err();
    let beyond = p.upload_part(&token, 4, part(&plan, &bytes, 0)).await.unwrap_err();
    assert_eq!((short.kind, beyond.kind), (ErrorKind::Invalid, ErrorKind::Invalid));
    p.commit(token, &done, None).await.unwrap();
    assert!(rig.back.get(&at).unwrap() == bytes);
    Outcome::Ran
}

pub(crate) async fn an_upload_goes_on_after_a_restart(rig: Rig) -> Outcome {
    // Facts about a site are learned at the first contact.
    rig.provider.probe().await.unwrap();
    if !rig.provider.capabilities().resume_upload {
        return Outcome::Skipped("uploads do not survive a restart at this kind of site");
    }
    let (size, part_size) = fit(&*rig.provider, 2_000_000, 1 << 20);
    let bytes = content(1, size);
    let at = if rig.provider.capabilities().byte_names {
        path("d").join(&name(b"not utf-8 \xff"))
    } else {
        path("d/utf-8 \u{e9}")
    };
    let plan = plan(&at, bytes.len(), part_size);
    let token = rig.provider.begin_upload(&plan).await.unwrap();
    // The last one first, where that may be.
    let order = if rig.provider.capabilities().parts_in_order {
        [0, 1]
    } else {
        [1, 0]
    };
    let first = rig
        .provider
        .upload_part(&token, order[0], part(&plan, &bytes, order[0]))
        .await
        .unwrap();
    let kept = serde_json::to_string(&(token, first)).unwrap();
    let Rig {
        provider, again, back, ..
    } = &rig;
    let _before = provider;

    let after = again();
    let (token, first): (UploadToken, _) = serde_json::from_str(&kept).unwrap();
    let second = after
        .upload_part(&token, order[1], part(&plan, &bytes, order[1]))
        .await
        .unwrap();
    after.commit(token, &[first, second], Some(None)).await.unwrap();
    assert!(back.get(&at).unwrap() == bytes);
    assert_eq!(back.names(&path("d")).len(), 1);
    Outcome::Ran
}

pub(crate) async fn an_abort_leaves_nothing(rig: Rig) -> Outcome {
    let p = &*rig.provider;
    rig.back.put(&path("d/file"), b"old");
    // Several parts: what is sent in one request leaves nothing before its commit.
    let (size, part_size) = fit(p, 100_000, 60_000);
    let (token, sent) = send(p, &plan(&path("d/file"), size, part_size), &content(1, size)).await;
    assert_eq!(rig.back.names(&path("d")).len(), 2, "there is something to remove");
    p.abort(token.clone()).await.unwrap();
    p.abort(token.clone()).await.unwrap();
    assert_eq!(rig.back.names(&path("d")).len(), 1);
    assert_eq!(rig.back.get(&path("d/file")).unwrap(), b"old");
    assert_eq!(
        p.commit(token, &sent, None).await.unwrap_err().kind,
        ErrorKind::NotFound
    );
    Outcome::Ran
}

pub(crate) async fn a_commit_without_all_parts_is_refused(rig: Rig) -> Outcome {
    let p = &*rig.provider;
    rig.back.put(&path("file"), b"old");
    let (size, part_size) = fit(p, 250_000, 100_000);
    let bytes = content(1, size);
    let (token, done) = send(p, &plan(&path("file"), bytes.len(), part_size), &bytes).await;
    for some in [&done[..0], &done[..2], &done[1..]] {
        let error = p.commit(token.clone(), some, None).await.unwrap_err();
        assert_eq!(error.kind, ErrorKind::Invalid, "{error}");
        assert_eq!(rig.back.get(&path("file")).unwrap(), b"old");
    }
    p.commit(token, &done, None).await.unwrap();
    assert!(rig.back.get(&path("file")).unwrap() == bytes);
    Outcome::Ran
}

pub(crate) async fn a_commit_that_expects_otherwise_leaves_the_target_alone(rig: Rig) -> Outcome {
    let p = &*rig.provider;
    let at = path("d/file");
    rig.back.put(&at, b"base");
    let base = p.stat(&at).await.unwrap().version;
    rig.back.put(&at, b"theirs");
    let theirs = p.stat(&at).await.unwrap().version;
    let (token, done) = send(p, &plan(&at, 4, 1 << 20), b"ours").await;
    for expect in [Some(Some(&base)), Some(None)] {
        let error = p.commit(token.clone(), &done, expect).await.unwrap_err();
        assert_eq!(error.kind, ErrorKind::VersionMismatch, "{error}");
        assert_eq!(rig.back.get(&at).unwrap(), b"theirs");
    }
    // The upload is still there: the caller may look again and decide.
    p.commit(token, &done, Some(Some(&theirs))).await.unwrap();
    assert_eq!(rig.back.get(&at).unwrap(), b"ours");

    let new = path("d/new");
    let (token, done) = send(p, &plan(&new, 4, 1 << 20), b"ours").await;
    let error = p.commit(token.clone(), &done, Some(Some(&base))).await.unwrap_err();
    assert_eq!(error.kind, ErrorKind::VersionMismatch);
    assert_eq!(rig.back.get(&new), None);
    p.commit(token, &done, Some(None)).await.unwrap();
    assert_eq!(rig.back.get(&new).unwrap(), b"ours");

    rig.back.put_dir(&path("d/folder"));
    let (token, done) = send(p, &plan(&path("d/folder"), 4, 1 << 20), b"ours").await;
    assert_eq!(
        p.commit(token.clone(), &done, None).await.unwrap_err().kind,
        ErrorKind::WrongKind
    );
    p.abort(token).await.unwrap();
    Outcome::Ran
}

pub(crate) async fn a_commit_whose_answer_was_lost_can_be_repeated(rig: Rig) -> Outcome {
    let p = &*rig.provider;
    let at = path("file");
    rig.back.put(&at, b"base");
    let base = p.stat(&at).await.unwrap().version;
    let (token, done) = send(p, &plan(&at, 4, 1 << 20), b"ours").await;
    let first = p.commit(token.clone(), &done, Some(Some(&base))).await.unwrap();
    let again = p.commit(token.clone(), &done, Some(Some(&base))).await.unwrap();
    assert_eq!(first, again);
    // Not once somebody else has been there.
    rig.back.put(&at, b"theirs");
    let later = p.commit(token, &done, Some(Some(&base))).await.unwrap_err();
    assert_eq!(later.kind, ErrorKind::NotFound, "{later}");
    assert_eq!(rig.back.get(&at).unwrap(), b"theirs");
    Outcome::Ran
}

pub(crate) async fn an_upload_that_was_committed_is_known_again(rig: Rig) -> Outcome {
    let p = &*rig.provider;
    let at = path("dir/file");
    let (size, part_size) = fit(p, 1_000_000, 300_000);
    for part_size in [part_size, size as u64] {
        let base = upload(p, &at, &content(1, 10)).await;
        let (plan, bytes) = (plan(&at, size, part_size), content(2, size));
        let (token, done) = send(p, &plan, &bytes).await;
        assert_eq!(
            p.was_committed(&token, &done, Some(&base)).await.unwrap(),
            None,
            "not yet"
        );
        let version = p.commit(token.clone(), &done, Some(Some(&base))).await.unwrap();
        let kept = serde_json::to_string(&(token, done)).unwrap();
        let (token, done): (UploadToken, Vec<PartDone>) = serde_json::from_str(&kept).unwrap();
        // As after a restart.
        let after = (rig.again)();
        let Some(known) = after.was_committed(&token, &done, Some(&base)).await.unwrap() else {
            return Outcome::Skipped(
                "which upload a file is of can't be told at this kind of site, but by size and time",
            );
        };
        assert_eq!(known, version);
        rig.back.put(&at, &content(3, size));
        assert_eq!(
            p.was_committed(&token, &done, Some(&base)).await.unwrap(),
            None,
            "somebody else's"
        );
    }
    Outcome::Ran
}

pub(crate) async fn readers_never_see_half_a_commit(rig: Rig) -> Outcome {
    let p = Arc::clone(&rig.provider);
    let at = path("d/file");
    let kinds = [content(1, 300_000), content(2, 900_000)];
    upload(&*p, &at, &kinds[0]).await;
    if !p.capabilities().atomic_replace {
        return Outcome::Skipped("this site replaces in two steps, and says so");
    }
    let over = Arc::new(AtomicBool::new(false));
    let whole = |bytes: &[u8]| kinds.iter().any(|k| k == bytes);
    let writer = tokio::spawn({
        let (p, at, kinds, over) = (Arc::clone(&p), at.clone(), kinds.clone(), Arc::clone(&over));
        async move {
            for round in 0..20 {
                upload(&*p, &at, &kinds[round % 2]).await;
            }
            over.store(true, Ordering::Relaxed);
        }
    });
    let (mut seen, mut read_whole) = (0, 0);
    while !over.load(Ordering::Relaxed) {
        assert!(
            whole(&rig.back.get(&at).expect("there is always one")),
            "a short file, seen at the site"
        );
        seen += 1;
        let entry = p.stat(&at).await.unwrap();
        match read(&*p, &at, &entry.version, 0..entry.size).await {
            Ok(bytes) => {
                assert!(whole(&bytes), "a short file, read by us");
                read_whole += 1;
            }
            Err(error) => assert_eq!(error.kind, ErrorKind::VersionMismatch, "{error}"),
        }
        tokio::task::yield_now().await;
    }
    writer.await.unwrap();
    assert!(seen > 0 && read_whole > 0, "nobody looked");
    Outcome::Ran
}

pub(crate) async fn two_uploads_of_one_path_do_not_meet(rig: Rig) -> Outcome {
    let p = &*rig.provider;
    let at = path("d/file");
    let ((size, part_size), (less, _)) = (fit(p, 700_000, 1 << 18), fit(p, 500_000, 1 << 18));
    let (ours, theirs) = (content(1, size), content(2, less));
    let (first, first_done) = send(p, &plan(&at, ours.len(), part_size), &ours).await;
    let (second, second_done) = send(p, &plan(&at, theirs.len(), part_size), &theirs).await;
    p.commit(first, &first_done, Some(None)).await.unwrap();
    assert!(rig.back.get(&at).unwrap() == ours);
    let error = p.commit(second.clone(), &second_done, Some(None)).await.unwrap_err();
    assert_eq!(error.kind, ErrorKind::VersionMismatch);
    p.commit(second, &second_done, None).await.unwrap();
    assert!(rig.back.get(&at).unwrap() == theirs);
    assert_eq!(rig.back.names(&path("d")).len(), 1);
    Outcome::Ran
}

pub(crate) async fn folders_are_made(rig: Rig) -> Outcome {
    let p = &*rig.provider;
    for dir in ["a", "a", "a/b/c/d", "x/y", ""] {
        p.make_dir(&path(dir)).await.unwrap();
        assert_eq!(p.stat(&path(dir)).await.unwrap().kind, EntryKind::Dir);
    }
    rig.back.put(&path("a/file"), b"x");
    for dir in ["a/file", "a/file/below"] {
        let error = p.make_dir(&path(dir)).await.unwrap_err();
        assert_eq!(error.kind, ErrorKind::WrongKind, "{error}");
    }
    assert_eq!(rig.back.get(&path("a/file")).unwrap(), b"x");
    Outcome::Ran
}

pub(crate) async fn renames(rig: Rig) -> Outcome {
    let p = &*rig.provider;
    rig.back.put(&path("a/one"), b"1");
    rig.back.put(&path("a/two"), b"2");
    rig.back.put(&path("d/below/file"), b"3");
    rig.back.put_dir(&path("full/x"));
    p.rename(&path("a/one"), &path("d/moved")).await.unwrap();
    assert_eq!(rig.back.get(&path("d/moved")).unwrap(), b"1");
    assert_eq!(rig.back.get(&path("a/one")), None);
    p.rename(&path("a/two"), &path("d/moved")).await.unwrap();
    assert_eq!(rig.back.get(&path("d/moved")).unwrap(), b"2", "replaces a file");
    p.rename(&path("d/moved"), &path("d/moved")).await.unwrap();
    assert_eq!(rig.back.get(&path("d/moved")).unwrap(), b"2", "onto itself");
    p.rename(&path("d"), &path("e")).await.unwrap();
    assert_eq!(
        rig.back.get(&path("e/below/file")).unwrap(),
        b"3",
        "folders move with what is in them"
    );
    assert_eq!(
        p.rename(&path("none"), &path("x")).await.unwrap_err().kind,
        ErrorKind::NotFound
    );
    assert_eq!(
        p.rename(&path("e/moved"), &path("none/x")).await.unwrap_err().kind,
        ErrorKind::NotFound
    );
    for (from, to) in [("e/moved", "full"), ("e", "full"), ("full", "e/moved")] {
        let error = p.rename(&path(from), &path(to)).await.unwrap_err();
        assert_eq!(error.kind, ErrorKind::WrongKind, "{from} to {to}: {error}");
    }
    assert_eq!(
        p.rename(&RelPath::root(), &path("x")).await.unwrap_err().kind,
        ErrorKind::Invalid
    );
    assert_eq!(rig.back.get(&path("e/moved")).unwrap(), b"2");
    Outcome::Ran
}

pub(crate) async fn deletes(rig: Rig) -> Outcome {
    let p = &*rig.provider;
    rig.back.put(&path("d/file"), b"x");
    rig.back.put_dir(&path("d/empty"));
    let error = p.delete(&path("d")).await.unwrap_err();
    assert_eq!(error.kind, ErrorKind::WrongKind, "{error}");
    p.delete(&path("d/file")).await.unwrap();
    assert_eq!(p.stat(&path("d/file")).await.unwrap_err().kind, ErrorKind::NotFound);
    assert_eq!(p.delete(&path("d/file")).await.unwrap_err().kind, ErrorKind::NotFound);
    p.delete(&path("d/empty")).await.unwrap();
    p.delete(&path("d")).await.unwrap();
    assert_eq!(p.delete(&RelPath::root()).await.unwrap_err().kind, ErrorKind::Invalid);
    Outcome::Ran
}
