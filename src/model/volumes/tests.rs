use super::*;
use proptest::prelude::*;

fn root(spelling: Spelling, text: &str) -> (Spelling, Root) {
    (spelling, Root::parse(spelling, text).unwrap())
}

fn volume(code: &str, folder: &str, roots: [&str; 4]) -> Volume {
    let roots = Spelling::ALL
        .into_iter()
        .zip(roots)
        .filter(|(_, text)| !text.is_empty());
    Volume {
        code: code.to_owned(),
        folder: RelPath::new(folder).unwrap(),
        roots: roots.map(|(s, text)| root(s, text)).collect(),
        sites: BTreeMap::new(),
        here: None,
    }
}

fn table() -> Vec<Volume> {
    let mut storage = volume("storage", "", ["/storage", "/Volumes/storage", "S:", r"\\storage"]);
    storage
        .sites
        .insert("london".into(), [root(Spelling::Linux, "/mnt/st/")].into());
    let cache = volume("cache", "cache", ["/storage/cache", "", r"S:\cache\", "//fast/Cache/"]);
    let home = volume("home", "home", ["/home/projects", "", "", r"\\storage\homes"]);
    vec![storage, cache, home]
}

/// What `reference/accsyn-ftrack-flow.md` holds about paths: ACC-12, ACC-13, ACC-26, FTR-7, section 5.4.
#[test]
fn the_golden_table() {
    for (text, code, path) in [
        (r"S:\theproject\seq010\refs", "storage", "theproject/seq010/refs"),
        (r"\\storage\theproject\seq010\refs", "storage", "theproject/seq010/refs"),
        ("/storage/theproject/seq010/refs", "storage", "theproject/seq010/refs"),
        (
            "/Volumes/storage/theproject/seq010/refs",
            "storage",
            "theproject/seq010/refs",
        ),
        // Windows does not care for case, nor which slash.
        (r"s:\theproject\seq010\refs", "storage", "theproject/seq010/refs"),
        ("S:/theproject/seq010/refs", "storage", "theproject/seq010/refs"),
        ("S:/theproject\\seq010/refs\\", "storage", "theproject/seq010/refs"),
        (r"\\STORAGE\theproject", "storage", "theproject"),
        ("//storage/theproject/seq010", "storage", "theproject/seq010"),
        // Case below the root is kept as it was given.
        (r"S:\TheProject\Seq010", "storage", "TheProject/Seq010"),
        // Slashes at the end and twice, and dots that say nothing.
        ("/storage/theproject/", "storage", "theproject"),
        ("/storage//theproject/./seq010//", "storage", "theproject/seq010"),
        ("/storage", "storage", ""),
        ("S:\\", "storage", ""),
        (r"\\storage\", "storage", ""),
        // The longest root wins.
        ("/storage/cache/a", "cache", "a"),
        ("/storage/cache", "cache", ""),
        (r"s:\CACHE\a", "cache", "a"),
        (r"\\fast\cache\a", "cache", "a"),
        (r"\\storage\Homes\ada", "home", "ada"),
        // Whole names only.
        ("/storage/cache2/a", "storage", "cache2/a"),
        (r"S:\cached", "storage", "cached"),
        // A name that recurs is no reason to cut there.
        (
            "/storage/theproject/storage/theproject",
            "storage",
            "theproject/storage/theproject",
        ),
        // Where a site mounts it elsewhere.
        ("/mnt/st/theproject", "storage", "theproject"),
        // Patterns pass.
        (r"S:\demo\**\v???", "storage", "demo/**/v???"),
        // A backslash is a letter where slashes part.
        (r"/storage/a\b", "storage", r"a\b"),
    ] {
        let volumes = table();
        let found = locate(&volumes, text, None).unwrap_or_else(|e| panic!("{text}: {e}"));
        assert_eq!(
            (found.volume.code.as_str(), found.path.to_string().as_str()),
            (code, path),
            "{text}"
        );
    }
    for (text, why) in [
        (
            "/STORAGE/theproject",
            "is in none of the volumes (storage, cache, home)",
        ),
        ("/storage2/theproject", "is in none of the volumes"),
        ("/mnt/theproject", "is in none of the volumes"),
        ("T:\\theproject", "is in none of the volumes"),
        (r"\\storage2\theproject", "is in none of the volumes"),
        ("theproject/seq010", "is not an absolute path"),
        (r"theproject\seq010", "is not an absolute path"),
        (r"\theproject", "is not an absolute path"),
        ("", "is not an absolute path"),
        ("S:theproject", r"depends on the folder that drive S: is in; write S:\"),
        ("S:", "depends on the folder"),
        ("/storage/theproject/../other", "has `..` in it"),
        (r"S:\..\other", "has `..` in it"),
        (r"\\storage\..\other", "has `..` in it"),
        (r"S:\theproject\NUL", "names a device"),
        (r"S:\theproject\com1.txt", "names a device"),
        (r"S:\theproject\file:stream", "names a device or a stream"),
        (r"\\?\S:\theproject", "names a device"),
        (r"\\.\PhysicalDrive0", "names a device"),
        ("//?/S:/theproject", "names a device"),
        ("/storage/a\0b", "holds a slash or a NUL byte"),
    ] {
        let volumes = table();
        let error = locate(&volumes, text, None).expect_err(text).to_string();
        assert!(error.contains(why), "{text}: {error}");
    }
}

#[test]
fn a_path_is_written_in_every_spelling() {
    let volumes = table();
    let found = locate(&volumes, r"S:\theproject\seq010", None).unwrap();
    let written = |spelling, site| found.volume.root(spelling, site).unwrap().write(&found.path).unwrap();
    assert_eq!(written(Spelling::Linux, None), "/storage/theproject/seq010");
    assert_eq!(written(Spelling::Macos, None), "/Volumes/storage/theproject/seq010");
    assert_eq!(written(Spelling::Windows, None), r"S:\theproject\seq010");
    assert_eq!(written(Spelling::Unc, None), r"\\storage\theproject\seq010");
    assert_eq!(written(Spelling::Linux, Some("london")), "/mnt/st/theproject/seq010");
    assert_eq!(
        written(Spelling::Windows, Some("london")),
        r"S:\theproject\seq010",
        "as everywhere"
    );
    let root = volumes[0].root(Spelling::Windows, None).unwrap();
    assert_eq!(root.to_string(), "S:\\");
    for (name, why) in [
        ("a:b", "a character"),
        ("con", "a device"),
        ("dot.", "end with a dot"),
        (r"a\b", "a character"),
    ] {
        let error = root.write(&RelPath::new(name).unwrap()).unwrap_err();
        assert!(error.contains(why), "{name}: {error}");
        let linux = volumes[0].root(Spelling::Linux, None).unwrap();
        assert_eq!(
            linux.write(&RelPath::new(name).unwrap()).unwrap(),
            format!("/storage/{name}")
        );
    }
}

#[test]
fn this_machines_own_root_comes_first_and_a_tie_is_refused() {
    let mut volumes = vec![
        volume("a", "", ["/a", "", "", ""]),
        volume("b", "b", ["/b", "", "", ""]),
    ];
    volumes[1].here = Some(Root::parse_any("/a").unwrap());
    assert_eq!(locate(&volumes, "/a/x", None).unwrap().volume.code, "b");
    volumes[1].here = None;
    volumes[1]
        .sites
        .insert("hq".into(), [root(Spelling::Linux, "/a")].into());
    assert_eq!(
        locate(&volumes, "/a/x", None).unwrap().volume.code,
        "a",
        "the general one"
    );
    assert_eq!(
        locate(&volumes, "/a/x", Some("hq")).unwrap().volume.code,
        "b",
        "seen from there"
    );
    volumes[1].sites.clear();
    volumes[1].roots = [root(Spelling::Macos, "/a")].into();
    let error = locate(&volumes, "/a/x", None).unwrap_err().to_string();
    assert_eq!(error, "/a/x may be in volume a or in volume b");
}

#[test]
fn a_path_of_the_drive_is_of_the_volume_nearest_above() {
    let volumes = table();
    let found = |path: &str| {
        let found = locate_in_drive(&volumes, &RelPath::new(path).unwrap()).unwrap();
        (found.volume.code.clone(), found.path.to_string())
    };
    assert_eq!(found("demo/sq010"), ("storage".into(), "demo/sq010".into()));
    assert_eq!(found("cache/x"), ("cache".into(), "x".into()));
    assert_eq!(found("cached/x"), ("storage".into(), "cached/x".into()));
    assert_eq!(found(""), ("storage".into(), String::new()));
}

proptest! {
    #[test]
    fn what_is_written_is_found_again(parts in prop::collection::vec("[a-zA-Z0-9é_ -]{1,8}[a-z]", 0..5)) {
        let volumes = table();
        let path = RelPath::new(parts.join("/")).unwrap();
        for volume in &volumes {
            for spelling in Spelling::ALL {
                let Some(root) = volume.root(spelling, None) else { continue };
                let Ok(text) = root.write(&path) else { continue };
                let found = locate(&volumes, &text, None).unwrap();
                let whole = |v: &Volume, p: &RelPath| v.root(Spelling::Linux, None).unwrap().write(p).unwrap();
                // It may be of a volume that is mounted inside.
                if found.volume.code == volume.code {
                    prop_assert_eq!(&found.path, &path);
                } else {
                    prop_assert!(whole(volume, &path).to_lowercase().starts_with("/storage"));
                }
            }
        }
    }

    #[test]
    fn no_text_is_a_panic_and_no_path_leads_upward(text in "[/\\\\:.SsA a?*\u{e9}\u{212a}-]{0,24}") {
        let volumes = table();
        if let Ok(found) = locate(&volumes, &text, Some("london")) {
            prop_assert!(found.path.components().all(|c| c != b".." && c != b"."));
        }
    }
}
