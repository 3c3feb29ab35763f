//! The file that `backlot config init` writes.

mod common;

use std::collections::BTreeSet;

use backlot_config::{Config, LocalSite, ProviderSettings, SftpSite, Site, sample};
use common::config_of;

/// The sample with the lines after `EDIT` replaced, as a user would.
fn edited() -> String {
    let mut lines: Vec<String> = sample().lines().map(str::to_owned).collect();
    let marks: Vec<usize> = (0..lines.len()).filter(|i| lines[*i].starts_with("# EDIT")).collect();
    assert_eq!(marks.len(), 2, "the sample promises two edits");
    for (mark, (key, value)) in marks
        .into_iter()
        .zip([("mount-point", "/mnt/shows"), ("host", "sftp.real.example")])
    {
        assert!(lines[mark + 1].starts_with(&format!("{key} = ")), "{}", lines[mark + 1]);
        lines[mark + 1] = format!("{key} = \"{value}\"");
    }
    lines.join("\n")
}

#[test]
fn works_once_its_two_lines_are_edited() {
    let config = config_of(&edited());
    assert_eq!(config.drive.mount_point, std::path::Path::new("/mnt/shows"));
    assert_eq!(config.projects["demo"], backlot_config::Project::new("demo", "studio"));
    match &config.sites["studio"].provider {
        ProviderSettings::Sftp(sftp) => {
            assert_eq!((sftp.host.as_str(), sftp.user.as_str()), ("sftp.real.example", "ada"))
        }
        _ => panic!("the studio is a server"),
    }
}

#[test]
fn loads_as_it_is() {
    config_of(sample());
}

/// Every setting is in the sample: commented out with its default, but for those that have none.
#[test]
fn what_is_commented_out_is_the_default() {
    let all: String = sample()
        .lines()
        .map(|line| match line.strip_prefix('#') {
            Some(setting) if !setting.starts_with(' ') => format!("{setting}\n"),
            _ => format!("{line}\n"),
        })
        .collect();
    let mut config = config_of(&all);
    let ProviderSettings::Sftp(sftp) = config.sites["studio"].provider.clone() else {
        panic!("the studio is a server")
    };
    let example_of_what_has_no_default = SftpSite {
        key_file: sftp.key_file.clone(),
        passphrase: sftp.passphrase.clone(),
        password: sftp.password.clone(),
        ..SftpSite::default()
    };
    assert!(sftp.key_file.is_some() && sftp.passphrase.is_some() && sftp.password.is_some());
    assert_eq!(
        sftp,
        SftpSite {
            host: sftp.host.clone(),
            user: "ada".to_owned(),
            root: "/projects".to_owned(),
            known_hosts: sftp.known_hosts.clone(),
            ..example_of_what_has_no_default
        }
    );
    assert!(sftp.known_hosts.ends_with(".ssh/known_hosts"));
    let limits = &config.sites["studio"].limits;
    assert!(limits.download_limit.is_some() && limits.upload_limit.is_some() && limits.max_requests.is_some());
    let Site {
        provider: ProviderSettings::Local(LocalSite {
            link_delay, link_rate, ..
        }),
        ..
    } = &config.sites["nas"]
    else {
        panic!("the file server is a folder")
    };
    assert!(link_delay.is_some() && link_rate.is_some());
    let demo = backlot_config::Project {
        // An example of what has no default.
        paths: [("london".to_owned(), "shows/demo".to_owned())].into(),
        ..backlot_config::Project::new("demo", "studio")
    };
    assert_eq!(config.projects["demo"], demo);
    assert!(config.machine.name.take().is_some() && config.machine.site_id.take().is_some());

    let plain = config_of("");
    let drive_of_another_home = |config: &Config| config.drive.name.clone();
    assert_eq!(drive_of_another_home(&config), drive_of_another_home(&plain));
    assert_eq!(config.drive.allow_other, plain.drive.allow_other);
    assert!(config.drive.data_dir.ends_with(".local/share/backlot"));
    assert!(config.drive.cache_dir.ends_with(".cache/backlot"));
    assert_eq!(
        (
            &config.machine,
            &config.cache,
            &config.hydration,
            &config.scan,
            &config.publish,
            &config.fuse,
            &config.log
        ),
        (
            &plain.machine,
            &plain.cache,
            &plain.hydration,
            &plain.scan,
            &plain.publish,
            &plain.fuse,
            &plain.log
        )
    );
}

/// No key of the schema is absent from the sample, in whose sections it is.
#[test]
fn no_setting_is_left_out() {
    let machine = common::Machine::new();
    machine.write_user(sample());
    let loaded = machine.loader().load().unwrap();
    let mut section = "";
    let mut in_sample = BTreeSet::new();
    for line in sample().lines().map(|line| line.trim_start_matches('#')) {
        if let Some(name) = line.strip_prefix('[') {
            section = name.trim_end_matches(']');
        } else if let Some((key, _)) = line.split_once(" = ") {
            in_sample.insert(format!("{section}.{key}"));
        }
    }
    let missing: Vec<String> = backlot_config::render_origin(&loaded)
        .into_iter()
        .map(|row| row.key)
        .filter(|key| !in_sample.contains(key))
        .collect();
    assert_eq!(missing, Vec::<String>::new());
}

#[test]
fn the_one_for_a_whole_machine_keeps_nothing_in_a_home() {
    let drive = config_of(&backlot_config::system_sample()).drive;
    assert_eq!(drive.mount_point, std::path::Path::new("/mnt/projects"));
    assert_eq!(drive.data_dir, std::path::Path::new("/var/lib/backlot"));
    assert_eq!(drive.cache_dir, std::path::Path::new("/var/cache/backlot"));
    assert!(drive.allow_other);
}
