//! What people are told about settings that are wrong: the exact words, one case per kind of mistake.

mod common;

use backlot_config::ConfigErrors;
use common::{Machine, complaint_about};

const STUDIO: &str = "[sites.studio]\nprovider = \"sftp\"\nhost = \"h\"\nroot = \"/r\"\n";

#[track_caller]
fn check(text: &str, complaint: &str) {
    assert_eq!(complaint_about(text), complaint, "of:\n{text}");
}

/// A case about a site that is right but for one more line, the 5th.
#[track_caller]
fn check_studio(line: &str, complaint: &str) {
    check(&format!("{STUDIO}{line}\n"), complaint);
}

/// A case about a project that is right but for one more line, the 7th.
#[track_caller]
fn check_project(line: &str, complaint: &str) {
    check(
        &format!("{STUDIO}[projects.demo]\nremote-site = \"studio\"\n{line}\n"),
        complaint,
    );
}

#[test]
fn keys_that_do_not_exist() {
    check(
        "[drive]\nmout-point = \"/x\"",
        "user:2:1: unknown key `mout-point` in [drive]; did you mean `mount-point`?",
    );
    check(
        "[drive]\nmount_point = \"/x\"",
        "user:2:1: unknown key `mount_point` in [drive]; did you mean `mount-point`?",
    );
    check(
        "[scan]\ndepth = 3",
        "user:2:1: unknown key `depth` in [scan]; known are parallel, recheck-after",
    );
    check(
        "[publish]\nspeed = 3",
        "user:2:1: unknown key `speed` in [publish]; known are settle, parallel, part-size, retry-max, min-free",
    );
    check(
        "[publish]\nretry_max = \"1min\"",
        "user:2:1: unknown key `retry_max` in [publish]; did you mean `retry-max`?",
    );
    check(
        "[publsih]",
        "user:1:2: unknown section [publsih]; did you mean `publish`?",
    );
    check(
        "[drvie]\nname = \"x\"",
        "user:1:2: unknown section [drvie]; did you mean `drive`?",
    );
    check(
        "schema-version = 1",
        "user:1:1: unknown key `schema-version`; did you mean `schema_version`?",
    );
    check(
        "[quux]",
        "user:1:2: unknown section [quux]; \
         known are drive, machine, cache, hydration, firewall, scan, publish, sync, copies, notify, workfiles, fuse, api, log, \
         sites, projects, volumes, receivers, \
         schema_version",
    );
    check_studio(
        "hots = \"h\"",
        "user:5:1: unknown key `hots` in [sites.studio] (provider sftp); did you mean `host`?",
    );
    check_studio(
        "donload-limit = 5",
        "user:5:1: unknown key `donload-limit` in [sites.studio] (provider sftp); did you mean `download-limit`?",
    );
    check_studio(
        "link-delay = \"1s\"",
        "user:5:1: unknown key `link-delay` in [sites.studio] (provider sftp); it belongs to provider local",
    );
    check(
        "[sites.nas]\nprovider = \"local\"\nroot = \"/nas\"\nport = 22",
        "user:4:1: unknown key `port` in [sites.nas] (provider local); it belongs to provider sftp",
    );
    check(
        "[sites.nas]\nprovider = \"local\"\nroot = \"/nas\"\nlink-speed = 22",
        "user:4:1: unknown key `link-speed` in [sites.nas] (provider local); known are root, link-delay, link-rate, \
         provider, download-limit, upload-limit, max-requests, alternative-sites, windows-names",
    );
    check_project(
        "zones = [{ macth = \"*\", zone = \"local\" }]",
        "user:7:12: unknown key `macth` in projects.demo.zones[0]; did you mean `match`?",
    );
    check_project(
        "remote-sites = 1",
        "user:7:1: unknown key `remote-sites` in [projects.demo]; did you mean `remote-site`?",
    );
    check_project(
        "prio = 1",
        "user:7:1: unknown key `prio` in [projects.demo]; known are folder, active-site, remote-site, remote-path, \
         always-accessible-on, paths, zones, pins, remote-delete, priority, scan-interval",
    );
}

#[test]
fn values_of_the_wrong_type() {
    check("drive = 5", "user:1:9: drive: must be a table, not a number");
    check(
        "[[drive]]\nname = \"x\"",
        "user:1:1: drive: must be a table, not a list",
    );
    check(
        "sites = 5",
        "user:1:9: sites: must hold one table per name, as in [sites.NAME]",
    );
    check(
        "[sites]\nstudio = \"x\"",
        "user:2:10: sites.studio: must be a table, not a string",
    );
    check(
        "[projects]\ndemo = true",
        "user:2:8: projects.demo: must be a table, not true or false",
    );
    check(
        "[drive]\nname = 5",
        "user:2:8: drive.name: must be a string, not a number",
    );
    check(
        "[drive]\nname = 1979-05-27",
        "user:2:8: drive.name: must be a string, not a date",
    );
    check(
        "[drive]\nmount-point = [\"/x\"]",
        "user:2:15: drive.mount-point: must be a string, not a list",
    );
    check(
        "[drive]\nallow-other = \"yes\"",
        "user:2:15: drive.allow-other: must be true or false, not a string",
    );
    check(
        "[drive]\numask = \"008\"",
        "user:2:9: drive.umask: `008` is no umask; write three octal digits in quotes, as in \"002\"",
    );
    check(
        "[drive]\numask = 2",
        "user:2:9: drive.umask: `2` is a number; write three octal digits in quotes, as in \"002\"",
    );
    check(
        "[drive]\nowner = 1000",
        "user:2:9: drive.owner: must be a string, not a number",
    );
    check(
        "[drive]\ngroup = \"art ists\"",
        "user:2:9: drive.group: `art ists` is neither a name nor a number; write one, as in \"artists\" or \"1000\"",
    );
    check(
        "[scan]\nparallel = 2.5",
        "user:2:12: scan.parallel: must be a whole number from 0 to 4294967295, not a number with a fraction",
    );
    check(
        "[scan]\nparallel = -1",
        "user:2:12: scan.parallel: must be a whole number from 0 to 4294967295",
    );
    check_studio(
        "port = 70000",
        "user:5:8: sites.studio.port: must be a whole number from 0 to 65535",
    );
    check(
        "[cache]\nmax-size = true",
        "user:2:12: cache.max-size: must be a size such as \"500MB\" or \"100GiB\", or a number of bytes, \
         not true or false",
    );
    check(
        "[cache]\nmax-size = 1.5",
        "user:2:12: cache.max-size: must be a size such as \"500MB\" or \"100GiB\", or a number of bytes, \
         not a number with a fraction",
    );
    check(
        "[fuse]\nthreads = \"many\"",
        "user:2:11: fuse.threads: must be \"auto\" or a number of threads",
    );
    check(
        "[fuse]\nthreads = -2",
        "user:2:11: fuse.threads: must be \"auto\" or a number of threads",
    );
    check_project(
        "pins = \"*.exr\"",
        "user:7:8: projects.demo.pins: must be a list such as [\"one\", \"two\"], not a string",
    );
    check_project(
        "pins = [\"a\", 5]",
        "user:7:14: projects.demo.pins[1]: must be a string, not a number",
    );
    check_project(
        "zones = [5]",
        "user:7:10: projects.demo.zones[0]: must be a table, not a number",
    );
}

#[test]
fn values_that_read_as_nothing() {
    check(
        "[cache]\nmax-size = \"lots\"",
        "user:2:12: cache.max-size: `lots` is not a size; write a number and a unit, as in 500MB or 100GiB",
    );
    check(
        "[cache]\nmin-free = -5",
        "user:2:12: cache.min-free: `-5` is not a size; write a number and a unit, as in 500MB or 100GiB",
    );
    check(
        "[cache]\nmax-size = \"10M/s\"",
        "user:2:12: cache.max-size: `10M/s` is not a size; write a number and a unit, as in 500MB or 100GiB",
    );
    check(
        "[scan]\nrecheck-after = \"5m\"",
        "user:2:17: scan.recheck-after: `5m` is not a length of time; \
         write a whole number and a unit (ms, s, min, h, d), as in 250ms or 15min",
    );
    check(
        "[scan]\nrecheck-after = 30",
        "user:2:17: scan.recheck-after: `30` has no unit; \
         write a whole number and a unit (ms, s, min, h, d), as in 250ms or 15min",
    );
    check(
        "[log]\nlevel = \"wran\"",
        "user:2:9: log.level: must be one of error, warn, info, debug, trace; did you mean `warn`?",
    );
    check(
        "[log]\nformat = 5",
        "user:2:10: log.format: must be one of text, json, not a number",
    );
    check_studio(
        "auth = \"magic\"",
        "user:5:8: sites.studio.auth: must be one of agent, key, password",
    );
    check_studio(
        "host-key = \"acept-new\"",
        "user:5:12: sites.studio.host-key: must be one of strict, accept-new; did you mean `accept-new`?",
    );
    check(
        "[sites.s]\nprovider = \"sfpt\"",
        "user:2:12: sites.s.provider: must be one of local, sftp, s3, webdav, exec, gdrive; did you mean `sftp`?",
    );
    check(
        "[sites.s]\nprovider = 1",
        "user:2:12: sites.s.provider: must be one of local, sftp, s3, webdav, exec, gdrive",
    );
    check(
        "[sites.s]\nroot = \"/x\"",
        "user:1:8: sites.s: `provider` is missing; one of local, sftp, s3, webdav, exec, gdrive",
    );
    check_project(
        "zones = [{ match = \"*\", zone = \"publsih\" }]",
        "user:7:32: projects.demo.zones[0].zone: must be one of publish, local, readonly; did you mean `publish`?",
    );
}

#[test]
fn texts_that_are_no_toml() {
    check("[drive\nname = 5", "user:1:7: unclosed table, expected `]`");
    check("[drive]\nname = \"a\"\nname = \"b\"", "user:3:1: duplicate key");
    check(
        "# größer\nx = 99999999999999999999",
        "user:2:5: the number is too large",
    );
    check(
        "[drive]\n\"größe\" = 1 2",
        "user:2:11: string values must be quoted, expected literal string",
    );
}

#[test]
fn versions_of_the_file() {
    check(
        "schema_version = 2\n[nonsense]",
        "user:1:18: schema_version 2 is not known; this backlot reads 1",
    );
    check(
        "schema_version = \"1\"",
        "user:1:18: schema_version: must be the number 1",
    );
    assert!(common::loaded("schema_version = 1").origins == common::loaded("").origins);
}

#[test]
fn files_that_cannot_be_read() {
    let machine = Machine::new();
    let missing = machine.loader().config_file(Some(machine.path("none.toml")));
    assert_eq!(
        machine.complaint(&missing),
        "none.toml: cannot be read: No such file or directory (os error 2); \
         check that it exists and that this user may read it"
    );
    let path = machine.path("latin1.toml");
    std::fs::write(&path, b"# \xe4").unwrap();
    let latin1 = machine.loader().config_file(Some(path));
    assert_eq!(
        machine.complaint(&latin1),
        "latin1.toml: the file is not UTF-8 text; save it as UTF-8"
    );
}

#[test]
fn project_files_hold_projects_and_sites_only() {
    let machine = Machine::new();
    machine.write("etc/projects.d/demo.toml", "[drive]\nname = \"x\"\n[project.demo]\n");
    assert_eq!(
        machine.complaint(&machine.loader()),
        "etc/projects.d/demo.toml:1:2: `drive` does not belong here; \
         a file of projects.d holds [projects.NAME] and [sites.NAME]\n\
         etc/projects.d/demo.toml:3:2: `project` does not belong here; did you mean `projects`?"
    );
}

#[test]
fn sites_that_lack_something() {
    check(
        "[sites.s]\nprovider = \"sftp\"\nauth = \"key\"",
        "user:1:8: sites.s.host: is missing; write the server's name or address\n\
         user:1:8: sites.s.root: is missing; write the absolute path of the folder on the server\n\
         user:1:8: sites.s.key-file: is missing, and auth is \"key\"; \
         write the path of the private key, or use auth = \"agent\"",
    );
    check_studio(
        "auth = \"password\"",
        "user:1:8: sites.studio.password: is missing, and auth is \"password\"; \
         write `env:NAME` or `file:/path`, where the password is to be found",
    );
    check(
        "[sites.s]\nprovider = \"local\"",
        "user:1:8: sites.s.root: is missing; write an absolute path",
    );
    let machine = Machine::new();
    machine.write("given.toml", STUDIO);
    let nobody = machine
        .loader()
        .env::<&str, &str>([])
        .config_file(Some(machine.path("given.toml")));
    assert_eq!(
        machine.complaint(&nobody),
        "given.toml:1:8: sites.studio.user: is missing, and USER is not set; write the user to log in as"
    );
}

#[test]
fn values_of_sites_out_of_range() {
    check_studio(
        "connections = 17",
        "user:5:15: sites.studio.connections: 17 is outside 1 to 16",
    );
    check_studio(
        "connections = 0",
        "user:5:15: sites.studio.connections: 0 is outside 1 to 16",
    );
    check_studio("port = 0", "user:5:8: sites.studio.port: 0 is outside 1 to 65535");
    check_studio(
        "max-requests = 0",
        "user:5:16: sites.studio.max-requests: 0 is outside 1 to 256",
    );
    check_studio(
        "keepalive = \"10ms\"",
        "user:5:13: sites.studio.keepalive: 10ms is outside 1s to 1h",
    );
    check_studio(
        "connect-timeout = \"1h\"",
        "user:5:19: sites.studio.connect-timeout: 1h is outside 1s to 5min",
    );
    check_studio(
        "upload-limit = 0",
        "user:5:16: sites.studio.upload-limit: 0 would let nothing through; leave it out, or write off, for no limit",
    );
    check_studio(
        "key-file = \"id\"",
        "user:5:12: sites.studio.key-file: `id` is not an absolute path; begin it with `/` or `~/`",
    );
    let host = |host: &str| format!("[sites.s]\nprovider = \"sftp\"\nroot = \"/r\"\nhost = \"{host}\"");
    for wrong in ["ada:hunter2@studio", "studio/projects", "a b"] {
        check(
            &host(wrong),
            "user:4:8: sites.s.host: is not a host name or address; \
             write the name or address alone; `user`, `port` and `root` have keys of their own",
        );
    }
    check(
        "[sites.s]\nprovider = \"sftp\"\nhost = \"h\"\nroot = \"projects\"",
        "user:4:8: sites.s.root: `projects` is not an absolute path on the server; begin it with `/`",
    );
    check(
        "[sites.\"a.b\"]\nprovider = \"local\"\nroot = \"/nas\"",
        "user:1:8: sites.a.b: `a.b` is not a name; use letters a to z, digits, `-` and `_`",
    );
}

#[test]
fn an_api_that_others_could_reach_or_nobody_could_use() {
    check(
        "[api]\nlisten = \"8787\"\nadmin-token = \"env:T\"",
        "user:2:10: api.listen: `8787` is not an address with a port; write it as in `127.0.0.1:8787`",
    );
    check(
        "[api]\nlisten = \"0.0.0.0:8787\"\nadmin-token = \"env:T\"",
        "user:2:10: api.listen: other machines can reach 0.0.0.0:8787, and tokens would go there in the clear; listen on \
         127.0.0.1; for others, put a proxy with TLS before it (see `hosts`) or use `ssh -L`",
    );
    check(
        "[api]\nlisten = \"127.0.0.1:8787\"",
        "user:2:10: api.listen: there is no token, so nobody could log in; set admin-token, viewer-token or both, as \
         `file:/path` or `env:NAME`",
    );
    check(
        "[api]\nhosts = [\"https://a.example\"]",
        "user:2:9: api.hosts: `https://a.example` is not a host name; write names as a browser sends them, as in \
         `backlot.studio.example`",
    );
}

#[test]
fn values_of_plain_sections_out_of_range() {
    check(
        "[cache]\nmax-size = 5",
        "user:2:12: cache.max-size: 5B is too little; the least is 1MiB",
    );
    check(
        "[hydration]\nread-deadline = \"1h\"",
        "user:2:17: hydration.read-deadline: 1h is outside 100ms to 10min",
    );
    check(
        "[hydration]\nreadahead-max = \"2GiB\"",
        "user:2:17: hydration.readahead-max: 2GiB is outside 0B to 1GiB",
    );
    check(
        "[hydration]\nsmall-file = \"65MiB\"",
        "user:2:14: hydration.small-file: 65MiB is outside 0B to 64MiB",
    );
    check(
        "[hydration]\nparallel-fetches = 0",
        "user:2:20: hydration.parallel-fetches: 0 is outside 1 to 64",
    );
    check(
        "[hydration]\nsequence-window = \"2min\"",
        "user:2:19: hydration.sequence-window: 2min is outside 100ms to 1min",
    );
    check(
        "[hydration]\nsequence-max = \"1KiB\"",
        "user:2:16: hydration.sequence-max: 1KiB is outside 1MiB to 64GiB",
    );
    check(
        "[scan]\nparallel = 65",
        "user:2:12: scan.parallel: 65 is outside 1 to 64",
    );
    check(
        "[publish]\nsettle = \"11min\"",
        "user:2:10: publish.settle: 11min is outside 0s to 10min",
    );
    check(
        "[publish]\nparallel = 0",
        "user:2:12: publish.parallel: 0 is outside 1 to 64",
    );
    check(
        "[publish]\nparallel = 65",
        "user:2:12: publish.parallel: 65 is outside 1 to 64",
    );
    check(
        "[publish]\npart-size = \"1023KiB\"",
        "user:2:13: publish.part-size: 1023KiB is outside 1MiB to 1GiB",
    );
    check(
        "[publish]\npart-size = \"2GiB\"",
        "user:2:13: publish.part-size: 2GiB is outside 1MiB to 1GiB",
    );
    check(
        "[publish]\nretry-max = \"999ms\"",
        "user:2:13: publish.retry-max: 999ms is outside 1s to 1d",
    );
    check(
        "[copies]\njobs-per-pair = 0",
        "user:2:17: copies.jobs-per-pair: 0 is outside 1 to 16",
    );
    check(
        "[publish]\nretry-max = \"25h\"",
        "user:2:13: publish.retry-max: 25h is outside 1s to 1d",
    );
    // The ends of what is allowed are allowed.
    for ends in [
        "settle = \"0s\"\nparallel = 1\npart-size = \"1MiB\"\nretry-max = \"1s\"\nmin-free = 0",
        "settle = \"10min\"\nparallel = 64\npart-size = \"1GiB\"\nretry-max = \"24h\"\nmin-free = \"1TiB\"",
    ] {
        common::config_of(&format!("[publish]\n{ends}"));
    }
    check("[fuse]\nthreads = 0", "user:2:11: fuse.threads: 0 is outside 1 to 64");
    check(
        "[cache]\nscrub = \"10ms\"",
        "user:2:9: cache.scrub: 10ms is outside 1s to 365d",
    );
    check(
        "[fuse]\nkernel-readahead = \"2GiB\"",
        "user:2:20: fuse.kernel-readahead: 2GiB is outside 0B to 1GiB",
    );
    check(
        "[machine]\nname = \" \"",
        "user:2:8: machine.name: is empty; leave it out to use the host name",
    );
    check(
        "[machine]\nsite-id = \"a b\"",
        "user:2:11: machine.site-id: `a b` is not a name; use letters a to z, digits, `-` and `_`",
    );
    check(
        "[drive]\nname = \"\"",
        "user:2:8: drive.name: `` is not a name; use letters a to z, digits, `-` and `_`",
    );
}

#[test]
fn folders_that_get_in_each_others_way() {
    let drive = |mount: &str, data: &str, cache: &str| {
        format!("[drive]\nmount-point = \"{mount}\"\ndata-dir = \"{data}\"\ncache-dir = \"{cache}\"")
    };
    check(
        &drive("/m", "/d", "/m/cache"),
        "user:4:13: drive.cache-dir: /m/cache lies inside the mount point, /m; \
         what lies there is hidden while the drive is mounted",
    );
    check(
        &drive("/d/../c/m", "/d", "/c"),
        "user:2:15: drive.mount-point: /c/m lies inside the cache folder, /c; give the drive a folder of its own",
    );
    check(
        &drive("/d/m", "/d", "/c"),
        "user:2:15: drive.mount-point: /d/m lies inside the data folder, /d; give the drive a folder of its own",
    );
    check(
        &drive("/m", "/same", "/same/."),
        "user:3:12: drive.data-dir: /same is the cache folder, /same; \
         the cache may be deleted at any time, the data must not be",
    );
    check(
        &drive("/m", "/c/data", "/c"),
        "user:3:12: drive.data-dir: /c/data lies inside the cache folder, /c; \
         the cache may be deleted at any time, the data must not be",
    );
    check(
        &drive("/m", "/d", "/d/local/c"),
        "user:4:13: drive.cache-dir: /d/local/c lies inside the folder of bytes that exist nowhere else, /d/local; \
         the cache may be deleted at any time, the data must not be",
    );
    check(
        &format!("{}\nsocket = \"/m/s\"", drive("/m", "/d", "/c")),
        "user:5:10: drive.socket: /m/s lies inside the mount point, /m; \
         what lies there is hidden while the drive is mounted",
    );
    check(
        "[drive]\nmount-point = \"mnt\"",
        "user:2:15: drive.mount-point: `mnt` is not an absolute path; begin it with `/` or `~/`",
    );
    // The data folder of the drive may well hold the cache.
    common::config_of(&drive("/m", "/d", "/d/cache"));
}

#[test]
fn local_sites_in_the_way_of_the_drive() {
    let site = |root: &str, path: &str| {
        format!(
            "[drive]\nmount-point = \"/p/mnt\"\ndata-dir = \"/d\"\ncache-dir = \"/c\"\n\
             [sites.nas]\nprovider = \"local\"\nroot = \"{root}\"\n\
             [projects.demo]\nremote-site = \"nas\"\nremote-path = \"{path}\""
        )
    };
    check(
        &site("/p/mnt/nas", "demo"),
        "user:7:8: sites.nas.root: /p/mnt/nas lies inside the mount point, /p/mnt; a site is a folder of its own",
    );
    check(
        &site("/c", "demo"),
        "user:7:8: sites.nas.root: /c is the cache folder, /c; a site is a folder of its own",
    );
    check(
        &site("/", "p"),
        "user:10:15: projects.demo.remote-path: the mount point, /p/mnt, lies inside the project at its site, /p; \
         keep what Backlot works with out of the projects",
    );
    common::config_of(&site("/p", "demo"));
}

#[test]
fn sockets_with_a_path_too_long() {
    let path = format!("/{}", "s".repeat(107));
    check(
        &format!("[drive]\nsocket = \"{path}\""),
        &format!(
            "user:2:10: drive.socket: the API socket's path, {path}, has 108 bytes, and a Unix socket's has at most 107; \
             set drive.socket to a shorter path, such as one in /run/user"
        ),
    );
    let data = format!("/{}", "d".repeat(94));
    check(
        &format!("[drive]\ndata-dir = \"{data}\""),
        &format!(
            "user:2:12: drive.data-dir: the API socket's path, {data}/backlot.sock, has 108 bytes, \
             and a Unix socket's has at most 107; set drive.socket to a shorter path, such as one in /run/user"
        ),
    );
    common::config_of(&format!("[drive]\ndata-dir = \"{}\"", &data[..94]));
}

#[test]
fn projects_that_refer_to_nothing() {
    check(
        "[projects.demo]\nfolder = \"d\"",
        "user:1:11: projects.demo.remote-site: is missing; name a site of [sites.NAME]",
    );
    check(
        &format!("{STUDIO}[projects.demo]\nremote-site = \"stduio\""),
        "user:6:15: projects.demo.remote-site: there is no site `stduio`; did you mean `studio`?",
    );
    check(
        "[projects.demo]\nremote-site = \"berlin\"",
        "user:2:15: projects.demo.remote-site: there is no site `berlin`; add [sites.berlin]",
    );
    check_project(
        "active-site = \"nas\"",
        "user:7:15: projects.demo.active-site: there is no site `nas`; add [sites.nas]",
    );
    check_project(
        "active-site = \"studio\"",
        "user:7:15: projects.demo.active-site: `studio` is the remote site too; \
         leave it out when this machine works from its own disk",
    );
}

#[test]
fn projects_with_impossible_paths_and_patterns() {
    let hint = "write one name of at most 255 bytes, without `/`";
    for folder in ["a/b", "..", "."] {
        check_project(
            &format!("folder = \"{folder}\"\nremote-path = \"p\""),
            &format!("user:7:10: projects.demo.folder: `{folder}` cannot be a folder; {hint}"),
        );
    }
    let long = "x".repeat(256);
    check_project(
        &format!("folder = \"{long}\""),
        &format!("user:7:10: projects.demo.folder: `{long}` cannot be a folder; {hint}"),
    );
    for path in ["/abs", "a/../b", "a//b", "a/./b", "a/"] {
        check_project(
            &format!("remote-path = \"{path}\""),
            &format!(
                "user:7:15: projects.demo.remote-path: `{path}` is not a path under the site's root; \
                 write it relative to the site's root, as in `shows/demo`, or `.` for the root itself"
            ),
        );
    }
    check_project(
        "paths = { nowhere = \"x\" }",
        "user:7:21: projects.demo.paths.nowhere: there is no site `nowhere`; add [sites.nowhere]",
    );
    check_project(
        "paths = { studio = \"x\" }",
        "user:7:20: projects.demo.paths.studio: `studio` is the remote site; say it with `remote-path`",
    );
    check_project(
        "pins = [\"ok\", \"a[\"]",
        "user:7:8: projects.demo.pins[1]: `a[` is not a pattern: unclosed character class; missing ']'",
    );
    check_project(
        "pins = [\"\"]",
        "user:7:8: projects.demo.pins[0]: is empty, and would match nothing",
    );
    check_project(
        "zones = [{ match = \"/publish/**\", zone = \"publish\" }]",
        "user:7:9: projects.demo.zones[0]: `/publish/**` begins with `/`, and paths inside a project do not",
    );
    check_project(
        "zones = [{ match = \"ok\", zone = \"local\" }, { match = \"a{b\", zone = \"publish\" }]",
        "user:7:9: projects.demo.zones[1]: `a{b` is not a pattern: unclosed alternate group; missing '}' \
         (maybe escape '{' with '[{]'?)",
    );
    let deep = format!("{}a{}", "{".repeat(300), "}".repeat(300));
    check_project(
        &format!("pins = [\"{deep}\"]"),
        "user:7:8: projects.demo.pins[0]: is too large or too deep a pattern",
    );
    let large = format!(
        "zones = [{}]",
        format!("{{ match = \"{}\", zone = \"local\" }}, ", "?".repeat(50_000)).repeat(9)
    );
    check_project(
        &large,
        "user:7:9: projects.demo.zones: these patterns are too large together",
    );
    check_project(
        "priority = 1001",
        "user:7:12: projects.demo.priority: 1001 is outside 0 to 1000",
    );
    check_project(
        "scan-interval = \"0s\"",
        "user:7:17: projects.demo.scan-interval: 0s is outside 100ms to 7d",
    );
    check_project(
        "[projects.Other]\nfolder = \"DEMO\"\nremote-site = \"studio\"",
        "user:5:11: projects.demo.folder: `demo` is the folder of project `Other` already; \
         give each project a folder of its own",
    );
}

#[test]
fn homes_that_are_not_known() {
    let machine = Machine::new();
    let file = machine.write(
        "given.toml",
        "[drive]\ncache-dir = \"/c\"\ndata-dir = \"/d\"\n[sites.s]\nprovider = \"sftp\"\nhost = \"h\"\nroot = \"/\"\nuser = \"u\"\n\
         known-hosts = \"/k\"\nauth = \"password\"\npassword = \"file:~/secret\"",
    );
    let homeless = backlot_config::Loader::new().config_file(Some(file));
    assert_eq!(
        machine.complaint(&homeless),
        "given.toml:1:2: drive.mount-point: `~` stands for the home folder, which is not known; \
         set HOME, or write an absolute path\n\
         given.toml:11:12: sites.s.password: `~` stands for the home folder, which is not known; \
         set HOME, or write an absolute path"
    );
}

#[test]
fn everything_wrong_is_told_at_once_and_nothing_twice() {
    check(
        "[drive]\n\
         nam = \"x\"\n\
         allow-other = 1\n\
         mount-point = \"rel\"\n\
         [cache]\n\
         max-size = \"?\"\n\
         [sites.studio]\n\
         provider = \"smtp\"\n\
         [projects.demo]\n\
         remote-site = 5\n\
         [projects.two]\n\
         remote-site = \"studio\"\n\
         pins = [\"[\", 1]\n\
         [nowhere]\n",
        "user:2:1: unknown key `nam` in [drive]; did you mean `name`?\n\
         user:3:15: drive.allow-other: must be true or false, not a number\n\
         user:4:15: drive.mount-point: `rel` is not an absolute path; begin it with `/` or `~/`\n\
         user:6:12: cache.max-size: `?` is not a size; write a number and a unit, as in 500MB or 100GiB\n\
         user:8:12: sites.studio.provider: must be one of local, sftp, s3, webdav, exec, gdrive; did you mean `sftp`?\n\
         user:10:15: projects.demo.remote-site: must be a string, not a number\n\
         user:13:8: projects.two.pins[0]: `[` is not a pattern: unclosed character class; missing ']'\n\
         user:13:14: projects.two.pins[1]: must be a string, not a number\n\
         user:14:2: unknown section [nowhere]; known are drive, machine, cache, hydration, firewall, scan, publish, sync, copies, notify, workfiles, fuse, api, log, \
         sites, projects, volumes, receivers, schema_version",
    );
}

#[test]
fn a_problem_tells_its_file_line_column_and_key() {
    let machine = Machine::new();
    let path = machine.write_user("[drive]\n  nmae = 1");
    let errors: ConfigErrors = machine.loader().load().unwrap_err();
    let problems: Vec<_> = errors.iter().collect();
    assert_eq!(problems.len(), 1);
    assert_eq!(problems[0].file(), Some(path.as_path()));
    assert_eq!((problems[0].line(), problems[0].column()), (Some(2), Some(3)));
    assert_eq!(problems[0].key, "drive.nmae");
    assert_eq!(problems[0].problem, "unknown key `nmae` in [drive]");
    assert_eq!(problems[0].hint.as_deref(), Some("did you mean `name`?"));
}

/// Every section, each kind of value.
const EVERYTHING: &str = r#"
schema_version = 1
drive = { name = "d", mount-point = "/m", data-dir = "/d", cache-dir = "/c", allow-other = false, socket = "/s" }
machine.name = "x"
[cache]
max-size = "1GiB"
[sites.nas]
provider = "local"
root = "/nas"
link-delay = "20ms"
[sites.studio]
provider = "sftp"
host = "h"
root = "/"
port = 22
password = "env:X"
download-limit = "1M/s"
[projects.demo]
remote-site = "studio"
zones = [{ match = "*", zone = "publish" }]
pins = ["a", "b"]
priority = 1000
[publish]
settle = "1s"
part-size = "8MiB"
[fuse]
threads = 2
"#;

proptest::proptest! {
    /// Whatever becomes of a file under somebody's hands, it loads or is complained about: no panic, no endless search.
    #[test]
    fn damaged_files_are_complained_about(
        at in 0..EVERYTHING.len(),
        length in 0..30_usize,
        put in "[]\\[{}=\"a-z0-9.,#\n -]{0,12}",
    ) {
        let end = (at + length).min(EVERYTHING.len());
        let machine = Machine::new();
        machine.write_user(&format!("{}{put}{}", &EVERYTHING[..at], &EVERYTHING[end..]));
        if let Err(errors) = machine.loader().load() {
            proptest::prop_assert!(errors.iter().count() > 0);
        }
    }
}

#[test]
fn the_file_that_is_damaged_was_right() {
    common::config_of(EVERYTHING);
}
