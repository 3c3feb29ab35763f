//! Cases of `stat`, `list`, `space`, and of names.

use std::collections::BTreeMap;

use backlot::model::{EntryKind, RelPath};
use backlot::providers::{Entry, ErrorKind, Listed, Provider, ProviderError, Retry};
use futures::TryStreamExt;

use crate::rig::{Rig, name, path};
use crate::suite::{Outcome, content, plan, read, upload};

async fn list(p: &dyn Provider, dir: &RelPath) -> Result<BTreeMap<Vec<u8>, Entry>, ProviderError> {
    let rows: Vec<Listed> = p.list(dir).try_collect().await?;
    let count = rows.len();
    let by_name: BTreeMap<_, _> = rows.into_iter().map(|row| (row.name.to_vec(), row.entry)).collect();
    assert_eq!(by_name.len(), count, "a name is listed twice");
    Ok(by_name)
}

pub(crate) async fn stat_tells_what_is_there(rig: Rig) -> Outcome {
    let p = &*rig.provider;
    p.probe().await.unwrap();
    rig.back.put(&path("a/file"), b"12345");
    let file = p.stat(&path("a/file")).await.unwrap();
    assert_eq!(
        (file.kind, file.size, file.target.as_deref()),
        (EntryKind::File, 5, None)
    );
    assert_eq!(file.perm.is_some_and(|perm| perm & 0o400 != 0), rig.back.has_perms());
    let step = i64::try_from(p.capabilities().mtime_step_ns).unwrap();
    assert_eq!(file.mtime_ns % step, 0);
    for dir in [path("a"), RelPath::root()] {
        let dir = p.stat(&dir).await.unwrap();
        assert_eq!((dir.kind, dir.size), (EntryKind::Dir, 0));
    }
    assert_eq!(
        p.stat(&path("a/file")).await.unwrap().version,
        file.version,
        "unchanged"
    );
    rig.back.put(&path("a/file"), b"54321");
    assert_ne!(
        p.stat(&path("a/file")).await.unwrap().version,
        file.version,
        "replaced by one of the same length"
    );
    Outcome::Ran
}

pub(crate) async fn absence_is_confirmed_and_never_guessed(rig: Rig) -> Outcome {
    let p = &*rig.provider;
    rig.back.put(&path("a/file"), b"x");
    for missing in ["none", "none/below", "a/none"] {
        let at = path(missing);
        let error = p.stat(&at).await.unwrap_err();
        assert_eq!(
            (error.kind, error.retry),
            (ErrorKind::NotFound, Retry::Never),
            "{error}"
        );
        assert_eq!(error.path.as_ref(), Some(&at));
        assert_eq!(list(p, &at).await.unwrap_err().kind, ErrorKind::NotFound);
        assert_eq!(p.delete(&at).await.unwrap_err().kind, ErrorKind::NotFound);
        let version = p.stat(&path("a/file")).await.unwrap().version;
        assert_eq!(
            read(p, &at, &version, 0..1).await.unwrap_err().kind,
            ErrorKind::NotFound
        );
    }
    // Below a file there is nothing; providers may say why.
    let below = p.stat(&path("a/file/below")).await.unwrap_err();
    assert!(
        matches!(below.kind, ErrorKind::NotFound | ErrorKind::WrongKind),
        "{below}"
    );
    // A folder that became a file is not "gone".
    assert_eq!(list(p, &path("a/file")).await.unwrap_err().kind, ErrorKind::WrongKind);
    let version = p.stat(&path("a")).await.unwrap().version;
    assert_eq!(
        read(p, &path("a"), &version, 0..0).await.unwrap_err().kind,
        ErrorKind::WrongKind
    );
    Outcome::Ran
}

pub(crate) async fn a_root_that_is_away_is_unreachable(rig: Rig) -> Outcome {
    let p = &*rig.provider;
    rig.back.put(&path("file"), b"x");
    let version = p.stat(&path("file")).await.unwrap().version;
    if !rig.back.hide_root() {
        return Outcome::Skipped("a site in memory is always there");
    }
    let file = path("file");
    let errors = [
        p.probe().await.unwrap_err(),
        p.stat(&file).await.unwrap_err(),
        list(p, &RelPath::root()).await.unwrap_err(),
        list(p, &path("dir")).await.unwrap_err(),
        p.delete(&file).await.unwrap_err(),
        p.make_dir(&path("dir/below")).await.unwrap_err(),
        p.begin_upload(&plan(&file, 1, 1)).await.unwrap_err(),
    ];
    for error in errors {
        assert!(error.is_link_failure(), "{error}");
    }
    if let Err(error) = read(p, &file, &version, 0..1).await {
        // A file that is open may be read on.
        assert!(error.is_link_failure(), "{error}");
    }
    Outcome::Ran
}

pub(crate) async fn what_is_refused_is_denied(rig: Rig) -> Outcome {
    let p = &*rig.provider;
    rig.back.put(&path("shut/file"), b"x");
    let version = p.stat(&path("shut/file")).await.unwrap().version;
    if !rig.back.deny(&path("shut/file")) {
        return Outcome::Skipped("nothing is refused to root");
    }
    assert_eq!(
        read(p, &path("shut/file"), &version, 0..1).await.unwrap_err().kind,
        ErrorKind::Denied
    );
    assert!(rig.back.deny(&path("shut")));
    let denied = [
        p.stat(&path("shut/file")).await.unwrap_err(),
        p.delete(&path("shut/file")).await.unwrap_err(),
        p.begin_upload(&plan(&path("shut/new"), 1, 1)).await.unwrap_err(),
        p.make_dir(&path("shut/new")).await.unwrap_err(),
        p.rename(&path("shut/file"), &path("out")).await.unwrap_err(),
        list(p, &path("shut")).await.unwrap_err(),
    ];
    for error in denied {
        assert_eq!((error.kind, error.retry), (ErrorKind::Denied, Retry::Never), "{error}");
    }
    Outcome::Ran
}

pub(crate) async fn names_are_bytes(rig: Rig) -> Outcome {
    let p = &*rig.provider;
    if !p.capabilities().byte_names {
        return Outcome::Skipped("names are UTF-8 at this kind of site");
    }
    let longest = [0xfe_u8; 255];
    let odd = [
        &b"\xff\xfe latin-1 \xe9"[..],
        b" ",
        b"-rf *",
        b"a\nb",
        b"\\",
        b"...",
        "é".as_bytes(),
        &longest,
    ];
    let dir = path("dir").join(&name(b"\xe9t\xe9"));
    for bytes in odd {
        rig.back.put(&dir.join(&name(bytes)), bytes);
    }
    let rows = list(p, &dir).await.unwrap();
    let mut want: Vec<Vec<u8>> = odd.iter().map(|n| n.to_vec()).collect();
    want.sort();
    assert_eq!(rows.keys().cloned().collect::<Vec<_>>(), want);
    for (bytes, entry) in &rows {
        let at = dir.join(&name(bytes));
        assert_eq!(p.stat(&at).await.unwrap(), *entry);
        assert_eq!(read(p, &at, &entry.version, 0..entry.size).await.unwrap(), *bytes);
        p.delete(&at).await.unwrap();
        upload(p, &at, b"new").await;
        assert_eq!(rig.back.get(&at).unwrap(), b"new");
        let other = dir.join(&name(&[&b"to "[..], &bytes[..bytes.len().min(250)]].concat()));
        p.rename(&at, &other).await.unwrap();
        assert_eq!(rig.back.get(&other).unwrap(), b"new");
    }
    Outcome::Ran
}

pub(crate) async fn a_path_too_long_is_invalid(rig: Rig) -> Outcome {
    let p = &*rig.provider;
    let long = RelPath::new(vec!["x".repeat(200); 21].join("/")).unwrap();
    assert!(long.as_bytes().len() > 4096);
    rig.back.put(&path("file"), b"x");
    let version = p.stat(&path("file")).await.unwrap().version;
    let errors = [
        p.stat(&long).await.unwrap_err(),
        list(p, &long).await.unwrap_err(),
        read(p, &long, &version, 0..1).await.unwrap_err(),
        p.begin_upload(&plan(&long, 1, 1)).await.unwrap_err(),
        p.make_dir(&long).await.unwrap_err(),
        p.rename(&path("file"), &long).await.unwrap_err(),
        p.delete(&long).await.unwrap_err(),
    ];
    for error in errors {
        assert_eq!((error.kind, error.retry), (ErrorKind::Invalid, Retry::Never), "{error}");
    }
    assert_eq!(rig.back.get(&path("file")).unwrap(), b"x");
    Outcome::Ran
}

pub(crate) async fn links_are_shown_and_not_followed(rig: Rig) -> Outcome {
    let p = &*rig.provider;
    if !p.capabilities().symlinks {
        return Outcome::Skipped("this kind of site has no links");
    }
    rig.back.put(&path("dir/file"), b"bytes");
    let links: [(&str, &[u8]); 5] = [
        ("l/away", b"/etc/passwd"),
        ("l/up", b"../../../../etc/passwd"),
        ("l/nowhere", b"none\xff"),
        ("l/file", b"../dir/file"),
        ("l/dir", b"../dir"),
    ];
    for (at, target) in links {
        rig.back.put_link(&path(at), target);
    }
    let rows = list(p, &path("l")).await.unwrap();
    assert_eq!(rows.len(), links.len());
    for (at, target) in links {
        let entry = p.stat(&path(at)).await.unwrap();
        assert_eq!(
            (entry.kind, entry.target.as_deref()),
            (EntryKind::Symlink, Some(target))
        );
        assert_eq!(rows[&at.as_bytes()[2..]], entry);
        let error = read(p, &path(at), &entry.version, 0..1).await.unwrap_err();
        assert_eq!(error.kind, ErrorKind::WrongKind, "{error}");
    }
    assert_eq!(list(p, &path("l/dir")).await.unwrap_err().kind, ErrorKind::WrongKind);
    p.delete(&path("l/file")).await.unwrap();
    p.delete(&path("l/dir")).await.unwrap();
    assert_eq!(
        rig.back.get(&path("dir/file")).unwrap(),
        b"bytes",
        "the link went, not what it leads to"
    );
    Outcome::Ran
}

pub(crate) async fn a_listing_is_whole(rig: Rig) -> Outcome {
    let p = &*rig.provider;
    rig.back.put(&path("d/one"), b"1");
    rig.back.put(&path("d/two"), &content(2, 100_000));
    rig.back.put(&path("d/sub/below"), b"3");
    rig.back.put_dir(&path("empty"));
    let rows = list(p, &path("d")).await.unwrap();
    assert_eq!(
        rows.keys().map(Vec::as_slice).collect::<Vec<_>>(),
        [&b"one"[..], b"sub", b"two"]
    );
    assert_eq!(rows[&b"two"[..]].size, 100_000);
    assert_eq!(rows[&b"sub"[..]].kind, EntryKind::Dir);
    for (bytes, entry) in &rows {
        assert_eq!(
            p.stat(&path("d").join(&name(bytes))).await.unwrap(),
            *entry,
            "a row and a stat say the same"
        );
    }
    assert!(list(p, &path("empty")).await.unwrap().is_empty());
    let top = list(p, &RelPath::root()).await.unwrap();
    assert_eq!(top.keys().map(Vec::as_slice).collect::<Vec<_>>(), [&b"d"[..], b"empty"]);
    // What an upload writes under is nobody's business.
    let token = p.begin_upload(&plan(&path("d/three"), 1, 1)).await.unwrap();
    assert_eq!(list(p, &path("d")).await.unwrap().len(), 3);
    p.abort(token).await.unwrap();
    Outcome::Ran
}

pub(crate) async fn a_large_folder_is_listed(rig: Rig) -> Outcome {
    const COUNT: usize = 5_000;
    let p = &*rig.provider;
    for i in 0..COUNT {
        rig.back.put(&path(&format!("plates/frame.{i:06}.exr")), b"");
    }
    let rows = list(p, &path("plates")).await.unwrap();
    assert_eq!(rows.len(), COUNT);
    assert!(rows.values().all(|e| e.kind == EntryKind::File && e.size == 0));
    Outcome::Ran
}

pub(crate) async fn space_is_told(rig: Rig) -> Outcome {
    match rig.provider.space().await.unwrap() {
        Some(space) => {
            assert!(space.total > 0 && space.available <= space.total, "{space:?}");
            Outcome::Ran
        }
        None => Outcome::Skipped("the site does not tell its space"),
    }
}
