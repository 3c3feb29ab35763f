//! Which layer has the last word, how variables and flags name keys, and where each value is said to come from.

mod common;

use std::ffi::OsString;
use std::path::{Path, PathBuf};

use backlot_config::{
    ByteSize, Config, HostKey, Layer, Loaded, Loader, Period, ProviderSettings, Publish, SftpAuth, SftpSite, Threads,
    Timetable, ZoneKind, ZoneRule, render_origin,
};
use common::{Machine, config_of, loaded};

const STUDIO: &str = "[sites.studio]\nprovider = \"sftp\"\nhost = \"h\"\nroot = \"/r\"\n";

#[track_caller]
fn load(loader: &Loader) -> Loaded {
    loader.load().unwrap_or_else(|errors| panic!("{errors}"))
}

fn sftp<'c>(config: &'c Config, site: &str) -> &'c SftpSite {
    match &config.sites[site].provider {
        ProviderSettings::Sftp(sftp) => sftp,
        _ => panic!("{site} is local"),
    }
}

fn with_env(machine: &Machine, variables: &[(&str, &str)]) -> Loader {
    machine.loader().env(variables.iter().copied().chain([("USER", "ada")]))
}

fn with_flags(machine: &Machine, flags: &[(&str, &str)]) -> Loader {
    machine.loader().overrides(
        flags
            .iter()
            .map(|(key, value)| ((*key).to_owned(), (*value).to_owned()))
            .collect(),
    )
}

/// Each layer sets the drive's name; taking them away one by one shows the one below.
#[test]
fn each_layer_overrides_those_before_it() {
    let machine = Machine::new();
    let name = |loader: Loader| {
        let loaded = load(&loader);
        (loaded.config.drive.name, loaded.origins.get("drive.name").to_string())
    };
    let told = |name: &str, origin: &str| (name.to_owned(), origin.to_owned());
    let (etc, home) = (
        machine.path("etc/config.toml"),
        machine.path("home/.config/backlot/config.toml"),
    );
    let given = machine.write("given/config.toml", "\n\n[drive]\nname = \"given\"");

    assert_eq!(name(machine.loader()), told("projects", "default"));
    machine.write("etc/config.toml", "[drive]\nname = \"system\"");
    assert_eq!(
        name(machine.loader()),
        told("system", &format!("system {}:2", etc.display()))
    );
    machine.write_user("# mine\n[drive]\nname = \"user\"");
    assert_eq!(
        name(machine.loader()),
        told("user", &format!("user {}:3", home.display()))
    );
    let loader = machine.loader().config_file(Some(given.clone()));
    assert_eq!(
        name(loader.clone()),
        told("given", &format!("given {}:4", given.display()))
    );
    let loader = loader.env([("BACKLOT_DRIVE_NAME", "environment")]);
    assert_eq!(
        name(loader.clone()),
        told("environment", "environment BACKLOT_DRIVE_NAME")
    );
    let loader = loader.overrides(vec![
        ("drive.name".to_owned(), "first".to_owned()),
        ("drive.name".to_owned(), "flag".to_owned()),
    ]);
    assert_eq!(name(loader), told("flag", "flag --set drive.name"));
}

#[test]
fn a_given_file_stands_for_system_and_user() {
    let machine = Machine::new();
    machine.write("etc/config.toml", "[cache]\nmax-size = \"1GiB\"");
    machine.write_user("[log]\nlevel = \"debug\"");
    machine.write(
        "etc/projects.d/a.toml",
        &format!("{STUDIO}[projects.a]\nremote-site = \"studio\""),
    );
    let given = machine.write("given/config.toml", "");
    machine.write(
        "given/projects.d/b.toml",
        &format!("{STUDIO}[projects.b]\nremote-site = \"studio\""),
    );

    let both = load(&machine.loader());
    assert_eq!(both.config.cache.max_size, ByteSize::gib(1));
    assert_eq!(both.config.log.level.as_str(), "debug");
    assert_eq!(both.config.projects.keys().collect::<Vec<_>>(), ["a"]);

    let loaded = load(&machine.loader().config_file(Some(given.clone())));
    assert_eq!(loaded.config.cache, Config::default().cache);
    assert_eq!(loaded.config.log, Config::default().log);
    assert_eq!(loaded.config.projects.keys().collect::<Vec<_>>(), ["b"]);
    assert_eq!(loaded.files, [given, machine.path("given/projects.d/b.toml")]);
}

#[test]
fn project_files_lie_over_both_settings_files_in_the_order_of_their_names() {
    let machine = Machine::new();
    let with_port = |port: u16| format!("[sites.studio]\nport = {port}\n");
    machine.write_user(&format!("{STUDIO}port = 1\nconnections = 2\n"));
    machine.write("etc/projects.d/z.toml", &with_port(2));
    assert_eq!(sftp(&load(&machine.loader()).config, "studio").port, 2);
    machine.write("home/.config/backlot/projects.d/10.toml", &with_port(10));
    machine.write(
        "home/.config/backlot/projects.d/20.toml",
        &format!("schema_version = 1\n{}", with_port(20)),
    );
    machine.write("home/.config/backlot/projects.d/30.toml.off", &with_port(30));

    let loaded = load(&machine.loader());
    let studio = sftp(&loaded.config, "studio");
    assert_eq!((studio.port, studio.connections, studio.host.as_str()), (20, 2, "h"));
    assert_eq!(loaded.origins.get("sites.studio.port").layer, Layer::Project);
    assert_eq!(loaded.origins.get("sites.studio.host").layer, Layer::User);
    let read: Vec<_> = loaded
        .files
        .iter()
        .filter_map(|path| path.file_name()?.to_str())
        .collect();
    assert_eq!(read, ["config.toml", "z.toml", "10.toml", "20.toml"]);
}

#[test]
fn tables_are_merged_and_lists_replaced() {
    let machine = Machine::new();
    machine.write(
        "etc/config.toml",
        &format!("{STUDIO}[projects.demo]\nremote-site = \"studio\"\npins = [\"a\", \"b\"]\nscan-interval = \"1h\""),
    );
    machine.write_user("[projects.demo]\npins = [\"c\"]");
    let demo = &load(&machine.loader()).config.projects["demo"];
    assert_eq!(demo.pins, ["c"]);
    assert_eq!(demo.scan_interval, Period::from_secs(3600));
}

#[test]
fn a_mistake_below_counts_only_where_nothing_lies_over_it() {
    let machine = Machine::new();
    machine.write("etc/config.toml", "[cache]\nmax-size = \"lots\"");
    machine.write_user("[cache]\nmax-size = \"1GiB\"");
    assert_eq!(load(&machine.loader()).config.cache.max_size, ByteSize::gib(1));
}

#[test]
fn defaults_are_those_of_the_schema_with_the_users_folders() {
    let machine = Machine::new();
    let home = machine.path("home");
    let loaded = load(&machine.loader());
    let mut expected = Config::default();
    expected.drive.mount_point = home.join("backlot");
    expected.drive.data_dir = home.join(".local/share/backlot");
    expected.drive.cache_dir = home.join(".cache/backlot");
    assert_eq!(loaded.config, expected);
    assert_eq!(loaded.files, Vec::<PathBuf>::new());
    assert_eq!(
        loaded.config.drive.socket_path(),
        home.join(".local/share/backlot/backlot.sock")
    );

    let project = config_of(&format!("{STUDIO}[projects.demo]\nremote-site = \"studio\"")).projects["demo"].clone();
    assert_eq!(project, backlot_config::Project::new("demo", "studio"));
    let folder = config_of(&format!(
        "{STUDIO}[projects.demo]\nremote-site = \"studio\"\nfolder = \"Démo 1\""
    ));
    assert_eq!(folder.projects["demo"].remote_path, "Démo 1");
}

#[test]
fn folders_follow_the_xdg_variables() {
    let machine = Machine::new();
    machine.write("xdg/config/backlot/config.toml", "[drive]\nname = \"xdg\"");
    let path = |below: &str| machine.path(below).into_os_string();
    let variables: Vec<(&str, OsString)> = vec![
        ("XDG_CONFIG_HOME", path("xdg/config")),
        ("XDG_DATA_HOME", path("xdg/data")),
        ("XDG_CACHE_HOME", path("xdg/cache")),
        ("HOME", path("xdg/home")),
    ];
    let loader = Loader::new().system_dir(machine.path("etc")).env(variables);
    assert_eq!(loader.user_file(), Some(machine.path("xdg/config/backlot/config.toml")));
    let drive = load(&loader).config.drive;
    assert_eq!(drive.name, "xdg");
    assert_eq!(drive.mount_point, machine.path("xdg/home/backlot"));
    assert_eq!(drive.data_dir, machine.path("xdg/data/backlot"));
    assert_eq!(drive.cache_dir, machine.path("xdg/cache/backlot"));
    assert_eq!(Loader::new().user_file(), None);
}

#[test]
fn tilde_is_the_home_folder_in_every_path_of_this_machine() {
    let machine = Machine::new();
    machine.write_user(
        "[drive]\nmount-point = \"~/m\"\ndata-dir = \"~/d\"\ncache-dir = \"~/c\"\nsocket = \"~/s\"\n\
         [sites.nas]\nprovider = \"local\"\nroot = \"~/nas\"\n\
         [sites.studio]\nprovider = \"sftp\"\nhost = \"h\"\nroot = \"/~/r\"\nkey-file = \"~/k\"\npassword = \"file:~/pw\"",
    );
    let config = load(&machine.loader()).config;
    let home = |below: &str| machine.path("home").join(below);
    assert_eq!(config.drive.mount_point, home("m"));
    assert_eq!(config.drive.data_dir, home("d"));
    assert_eq!(config.drive.cache_dir, home("c"));
    assert_eq!(config.drive.socket_path(), home("s"));
    let studio = sftp(&config, "studio");
    assert_eq!(studio.root, "/~/r");
    assert_eq!(studio.key_file, Some(home("k")));
    assert_eq!(studio.known_hosts, home(".ssh/known_hosts"));
    assert_eq!(studio.password, Some(backlot_config::SecretRef::File(home("pw"))));
    match &config.sites["nas"].provider {
        ProviderSettings::Local(local) => assert_eq!(local.root, home("nas")),
        _ => panic!("nas is a folder"),
    }
}

#[test]
fn variables_name_keys_and_take_their_types() {
    let machine = Machine::new();
    machine.write_user(&format!("{STUDIO}[projects.Big_Show-2]\nremote-site = \"studio\""));
    let loader = with_env(
        &machine,
        &[
            ("BACKLOT_DRIVE_MOUNT_POINT", "/elsewhere"),
            ("BACKLOT_DRIVE_ALLOW_OTHER", "true"),
            ("BACKLOT_CACHE_MAX_SIZE", "1073741824"),
            ("BACKLOT_FUSE_THREADS", "3"),
            ("BACKLOT_MACHINE_NAME", "42"),
            ("BACKLOT_SCAN_RECHECK_AFTER", "5s"),
            ("BACKLOT_PUBLISH_SETTLE", "0s"),
            ("BACKLOT_PUBLISH_PARALLEL", "3"),
            ("BACKLOT_PUBLISH_PART_SIZE", "8MiB"),
            ("BACKLOT_PUBLISH_RETRY_MAX", "1h"),
            ("BACKLOT_PUBLISH_MIN_FREE", "1GiB"),
            ("BACKLOT_SITES_STUDIO_HOST", "other"),
            ("BACKLOT_SITES_STUDIO_PORT", "2222"),
            ("BACKLOT_SITES_STUDIO_KEY_FILE", "/k"),
            ("BACKLOT_SITES_STUDIO_AUTH", "key"),
            ("BACKLOT_SITES_STUDIO_HOST_KEY", "accept-new"),
            ("BACKLOT_SITES_STUDIO_UPLOAD_LIMIT", "10M/s"),
            ("BACKLOT_PROJECTS_BIG_SHOW_2_PINS", "[\"plates/**\", 'lut']"),
            (
                "BACKLOT_PROJECTS_BIG_SHOW_2_ZONES",
                "[{ match = \"**\", zone = \"readonly\" }]",
            ),
            ("BACKLOT_PROJECTS_BIG_SHOW_2_REMOTE_PATH", "shows/big"),
            ("BACKLOT_PROJECTS_BIG_SHOW_2_PRIORITY", "700"),
            ("BACKLOT_DRIVE_NAME", ""),
            ("UNRELATED", "x"),
        ],
    );
    let loaded = load(&loader);
    let config = &loaded.config;
    assert_eq!(config.drive.mount_point, Path::new("/elsewhere"));
    assert!(config.drive.allow_other);
    assert_eq!(config.drive.name, "projects", "an empty variable is not set");
    assert_eq!(config.cache.max_size, ByteSize::gib(1));
    assert_eq!(config.fuse.threads, Threads::Fixed(3));
    assert_eq!(config.machine.name.as_deref(), Some("42"));
    assert_eq!(config.scan.recheck_after, Period::from_secs(5));
    assert_eq!(
        config.publish,
        Publish {
            settle: Period::from_millis(0),
            parallel: 3,
            part_size: ByteSize::mib(8),
            retry_max: Period::from_secs(3600),
            min_free: ByteSize::gib(1),
        }
    );
    let studio = sftp(config, "studio");
    assert_eq!(
        (studio.host.as_str(), studio.port, studio.auth),
        ("other", 2222, SftpAuth::Key)
    );
    assert_eq!(studio.key_file.as_deref(), Some(Path::new("/k")));
    assert_eq!(studio.host_key, HostKey::AcceptNew);
    assert_eq!(
        config.sites["studio"].limits.upload_limit,
        Some(Timetable::always(Some(ByteSize(10_000_000))))
    );
    let show = &config.projects["Big_Show-2"];
    assert_eq!(show.pins, ["plates/**", "lut"]);
    assert_eq!(
        show.zones,
        [ZoneRule {
            pattern: "**".to_owned(),
            zone: ZoneKind::Readonly
        }]
    );
    assert_eq!(show.remote_path, "shows/big");
    assert_eq!(show.priority, 700);
    let origin = loaded.origins.get("projects.Big_Show-2.remote-path");
    assert_eq!(
        origin.to_string(),
        "environment BACKLOT_PROJECTS_BIG_SHOW_2_REMOTE_PATH"
    );
}

#[test]
fn variables_alone_make_a_site_and_a_project() {
    let machine = Machine::new();
    let loader = with_env(
        &machine,
        &[
            ("BACKLOT_SITES_BIG_NAS_PROVIDER", "local"),
            ("BACKLOT_SITES_BIG_NAS_ROOT", "/nas"),
            ("BACKLOT_SITES_BIG_NAS_LINK_DELAY", "20ms"),
            ("BACKLOT_SITES_BIG_NAS_LINK_RATE", "25MB"),
            ("BACKLOT_PROJECTS_DEMO_REMOTE_SITE", "big-nas"),
        ],
    );
    let config = load(&loader).config;
    assert_eq!(config.projects["demo"].remote_site, "big-nas");
    match &config.sites["big-nas"].provider {
        ProviderSettings::Local(local) => {
            assert_eq!(local.link_delay, Some(Period::from_millis(20)));
            assert_eq!(local.link_rate, Some(ByteSize(25_000_000)));
        }
        _ => panic!("big-nas is a folder"),
    }
}

#[test]
fn reserved_variables_are_left_to_others() {
    let machine = Machine::new();
    let reserved = [
        ("BACKLOT_LOG", "debug,backlot=trace"),
        ("BACKLOT_CONFIG", "/x"),
        ("BACKLOT_SOCKET", "/x"),
        ("BACKLOT_STORAGE_PATH", "/x"),
        ("BACKLOT_PROJECTS_PATH", "/x"),
        ("BACKLOT_PUBLISH_PATH", "/x"),
        ("BACKLOT_TEST_SSHD", "/x"),
    ];
    assert_eq!(
        load(&with_env(&machine, &reserved)).config,
        load(&machine.loader()).config
    );
}

#[test]
fn variables_that_are_no_setting() {
    let machine = Machine::new();
    machine.write_user(&format!("{STUDIO}[sites.studio_b]\nprovider = \"local\"\nroot = \"/b\"\n[sites.studio-b]\nprovider = \"local\"\nroot = \"/b\""));
    for (variable, complaint) in [
        (
            "BACKLOT_DRIVE_MOUTN_POINT",
            "no setting has this name; did you mean `BACKLOT_DRIVE_MOUNT_POINT`?",
        ),
        (
            "BACKLOT_PUBLISH_PARTSIZE",
            "no setting has this name; did you mean `BACKLOT_PUBLISH_PART_SIZE`?",
        ),
        (
            "BACKLOT_SITES_STUDIO_HSOT",
            "no setting has this name; did you mean `BACKLOT_SITES_STUDIO_HOST`?",
        ),
        (
            "BACKLOT_DRIVE_MOUNT_PATH",
            "no setting has this name; did you mean `BACKLOT_DRIVE_MOUNT_POINT`?",
        ),
        (
            "BACKLOT_SOCKT",
            "no setting has this name; did you mean `BACKLOT_SOCKET`?",
        ),
        ("BACKLOT_", "no setting has this name"),
        (
            "BACKLOT_SITES_STUDIO_B_ROOT",
            "stands for both `sites.studio-b.root` and `sites.studio_b.root`; rename one of them",
        ),
    ] {
        let loader = with_env(&machine, &[(variable, "hunter2")]);
        assert_eq!(machine.complaint(&loader), format!("{variable}: {complaint}"));
    }
    let misspelt_site = with_env(&machine, &[("BACKLOT_SITES_STUDOI_PORT", "5")]);
    assert_eq!(
        machine.complaint(&misspelt_site),
        "BACKLOT_SITES_STUDOI_PORT: sites.studoi: `provider` is missing; one of local, sftp, s3, webdav, exec, gdrive"
    );
    #[cfg(unix)]
    {
        use std::os::unix::ffi::OsStringExt as _;
        machine.write_user("");
        let latin1 = machine
            .loader()
            .env([("BACKLOT_DRIVE_NAME", OsString::from_vec(vec![0xe4]))]);
        assert_eq!(machine.complaint(&latin1), "BACKLOT_DRIVE_NAME: the value is not UTF-8");
    }
}

#[test]
fn variables_and_flags_of_the_wrong_type() {
    let machine = Machine::new();
    machine.write_user(&format!("{STUDIO}[projects.demo]\nremote-site = \"studio\""));
    for (key, value, complaint) in [
        ("drive.allow-other", "yes", "drive.allow-other: must be true or false"),
        (
            "scan.parallel",
            "few",
            "scan.parallel: must be a whole number from 0 to 4294967295",
        ),
        (
            "scan.parallel",
            "-1",
            "scan.parallel: must be a whole number from 0 to 4294967295",
        ),
        ("scan.parallel", "0", "scan.parallel: 0 is outside 1 to 64"),
        (
            "publish.settle",
            "2",
            "publish.settle: `2` is not a length of time; \
             write a whole number and a unit (ms, s, min, h, d), as in 250ms or 15min",
        ),
        ("publish.parallel", "100", "publish.parallel: 100 is outside 1 to 64"),
        (
            "publish.part-size",
            "big",
            "publish.part-size: `big` is not a size; write a number and a unit, as in 500MB or 100GiB",
        ),
        (
            "projects.demo.priority",
            "high",
            "projects.demo.priority: must be a whole number from 0 to 4294967295",
        ),
        (
            "projects.demo.pins",
            "a,b",
            "projects.demo.pins: must be a list such as [\"one\", \"two\"]",
        ),
        (
            "projects.demo.pins",
            "[1]",
            "projects.demo.pins[0]: must be a string, not a number",
        ),
        (
            "projects.demo.zones",
            "[{ match = \"*\" }]",
            "projects.demo.zones[0]: `zone` is missing",
        ),
        (
            "log.level",
            "wran",
            "log.level: must be one of error, warn, info, debug, trace; did you mean `warn`?",
        ),
    ] {
        let variable = format!("BACKLOT_{}", key.to_uppercase().replace(['.', '-'], "_"));
        let loader = with_env(&machine, &[(&variable, value)]);
        assert_eq!(machine.complaint(&loader), format!("{variable}: {complaint}"));
        let loader = with_flags(&machine, &[(key, value)]);
        assert_eq!(machine.complaint(&loader), format!("--set {key}: {complaint}"));
    }
}

#[test]
fn flags_that_name_no_value() {
    let machine = Machine::new();
    for (key, complaint) in [
        ("drive", "this is not the key of a value; write it as drive.KEY"),
        ("drive.name.x", "this is not the key of a value; write it as drive.KEY"),
        ("drive.", "this is not the key of a value; write it as drive.KEY"),
        (
            "sites.studio",
            "this is not the key of a value; write it as sites.NAME.KEY",
        ),
        ("drvie.name", "no section is called `drvie`; did you mean `drive`?"),
        ("", "no section is called ``"),
        ("drive.nmae", "unknown key `nmae` in [drive]; did you mean `name`?"),
    ] {
        assert_eq!(
            machine.complaint(&with_flags(&machine, &[(key, "x")])),
            format!("--set {key}: {complaint}")
        );
    }
}

#[test]
fn origins_are_shown_for_every_value_in_effect() {
    let machine = Machine::new();
    let file = machine.write_user(
        "[drive]\nmount-point = \"/m\"\n[sites.studio]\nprovider = \"sftp\"\nhost = \"h\"\nroot = \"/r\"\n\
         password = \"env:STUDIO_PASSWORD\"\ndownload-limit = \"10M/s\"\n\
         [projects.demo]\nremote-site = \"studio\"\npins = [\"a\"]\n",
    );
    let loader = with_env(&machine, &[("BACKLOT_SCAN_PARALLEL", "4")]).overrides(
        [("log.format", "json"), ("publish.retry-max", "1min")]
            .map(|(key, value)| (key.to_owned(), value.to_owned()))
            .to_vec(),
    );
    let rows = render_origin(&load(&loader));
    let shown = |key: &str| {
        let row = rows
            .iter()
            .find(|row| row.key == key)
            .unwrap_or_else(|| panic!("no row {key}"));
        format!("{} = {} # {}", row.key, row.value, row.origin)
    };
    let at = |line: usize| format!("user {}:{line}", file.display());
    assert_eq!(
        shown("drive.mount-point"),
        format!("drive.mount-point = \"/m\" # {}", at(2))
    );
    assert_eq!(shown("drive.name"), "drive.name = \"projects\" # default");
    assert_eq!(shown("cache.max-size"), "cache.max-size = \"100GiB\" # default");
    assert_eq!(
        shown("sites.studio.provider"),
        format!("sites.studio.provider = \"sftp\" # {}", at(4))
    );
    assert_eq!(shown("sites.studio.port"), "sites.studio.port = 22 # default");
    assert_eq!(shown("sites.studio.user"), "sites.studio.user = \"ada\" # default");
    assert_eq!(
        shown("sites.studio.password"),
        format!("sites.studio.password = \"env:STUDIO_PASSWORD\" # {}", at(7))
    );
    assert_eq!(
        shown("sites.studio.download-limit"),
        format!("sites.studio.download-limit = \"10MB\" # {}", at(8))
    );
    assert_eq!(
        shown("projects.demo.pins"),
        format!("projects.demo.pins = [\"a\"] # {}", at(11))
    );
    assert_eq!(
        shown("projects.demo.zones"),
        "projects.demo.zones = [{ match = \"**/publish/**\", zone = \"publish\" }] # default"
    );
    assert_eq!(
        shown("scan.parallel"),
        "scan.parallel = 4 # environment BACKLOT_SCAN_PARALLEL"
    );
    assert_eq!(
        shown("projects.demo.priority"),
        "projects.demo.priority = 500 # default"
    );
    assert_eq!(shown("publish.settle"), "publish.settle = \"2s\" # default");
    assert_eq!(shown("publish.parallel"), "publish.parallel = 24 # default");
    assert_eq!(shown("publish.part-size"), "publish.part-size = \"16MiB\" # default");
    assert_eq!(
        shown("publish.retry-max"),
        "publish.retry-max = \"1min\" # flag --set publish.retry-max"
    );
    assert_eq!(shown("publish.min-free"), "publish.min-free = \"256MiB\" # default");
    assert_eq!(shown("fuse.threads"), "fuse.threads = \"auto\" # default");
    assert_eq!(shown("log.format"), "log.format = \"json\" # flag --set log.format");
    assert!(
        rows.iter().all(|row| row.key != "drive.socket"),
        "what is not set has no row"
    );
    let keys: std::collections::BTreeSet<_> = rows.iter().map(|row| &row.key).collect();
    assert_eq!(keys.len(), rows.len(), "each key once");
}

/// What is shown can be written into a file, and loads as the same settings.
#[test]
fn what_is_shown_reads_back() {
    let text = format!(
        "{STUDIO}auth = \"key\"\nkey-file = \"/k\"\n[sites.nas]\nprovider = \"local\"\nroot = \"/nas\"\nlink-rate = 5\n[projects.demo]\nremote-site = \"studio\"\n[fuse]\nthreads = 3\n"
    );
    let first = loaded(&text);
    let shown: String = render_origin(&first)
        .iter()
        .map(|row| format!("{} = {}\n", row.key, row.value))
        .collect();
    assert_eq!(config_of(&shown), first.config);
}

#[cfg(unix)]
#[test]
fn a_home_that_is_not_utf8_serves() {
    use std::os::unix::ffi::OsStringExt as _;
    let home = PathBuf::from(OsString::from_vec(b"/home/\xe4da".to_vec()));
    let machine = Machine::new();
    let loaded = load(&machine.loader().home(&home));
    assert_eq!(loaded.config.drive.mount_point, home.join("backlot"));
    let rows = render_origin(&loaded);
    let mount = rows.iter().find(|row| row.key == "drive.mount-point").unwrap();
    assert_eq!(mount.value, "\"/home/\u{fffd}da/backlot\"");
}

#[test]
fn thread_counts() {
    assert_eq!(
        [1, 2, 3, 4, 64].map(|cores| Threads::Auto.count(cores)),
        [2, 2, 3, 4, 4]
    );
    assert_eq!(Threads::Fixed(7).count(2), 7);
}
