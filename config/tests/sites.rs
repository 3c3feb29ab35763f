//! Sites as a studio has them: several doors to one storage, sites that have everything, and what one machine or one user has
//! of their own.

mod common;

use std::path::PathBuf;

use backlot_config::{Period, ProviderSettings, SecretRef};
use common::{Machine, complaint_about, config_of};

const SITES: &str = "[sites.hq]\nprovider = \"sftp\"\nhost = \"h\"\nroot = \"/r\"\n\
                     [sites.vault]\nprovider = \"local\"\nroot = \"/v\"\n\
                     [projects.demo]\nremote-site = \"hq\"\n";

/// What is said about the settings above with one more line, the 10th.
fn about_project(line: &str) -> String {
    complaint_about(&format!("{SITES}{line}\n"))
}

#[test]
fn a_project_names_sites_that_have_all_of_it() {
    let config = config_of(&format!(
        "{SITES}always-accessible-on = [\"vault\"]\nactive-site = \"local\""
    ));
    assert_eq!(config.projects["demo"].always_accessible_on, ["vault"]);
    assert_eq!(
        config.projects["demo"].active_site.as_deref(),
        Some("local"),
        "the machine itself"
    );
    assert_eq!(
        about_project("always-accessible-on = [\"valut\"]"),
        "user:10:24: projects.demo.always-accessible-on: there is no site `valut`; did you mean `vault`?"
    );
    assert_eq!(
        about_project("always-accessible-on = [\"hq\"]"),
        "user:10:24: projects.demo.always-accessible-on: `hq` is the remote site; \
         leave it out: the remote site has all of the project anyway"
    );
    assert_eq!(
        about_project("always-accessible-on = [\"vault\", \"vault\"]"),
        "user:10:24: projects.demo.always-accessible-on: `vault` is named twice"
    );
}

#[test]
fn a_site_names_other_doors_to_its_storage() {
    let door = "[sites.hq-door]\nprovider = \"local\"\nroot = \"/mnt/hq\"\n";
    let config = config_of(&format!("{SITES}{door}alternative-sites = [\"hq\"]"));
    assert_eq!(config.sites["hq-door"].limits.alternative_sites, ["hq"]);
    assert_eq!(
        complaint_about(&format!("{SITES}{door}alternative-sites = [\"hq-door\"]")),
        "user:13:21: sites.hq-door.alternative-sites: `hq-door` is that site itself"
    );
    assert_eq!(
        complaint_about(&format!("{SITES}{door}alternative-sites = [\"hw\"]")),
        "user:13:21: sites.hq-door.alternative-sites: there is no site `hw`; did you mean `hq`?"
    );
}

#[test]
fn a_machine_and_a_user_have_roots_and_credentials_of_their_own() {
    let machine = Machine::new();
    let studio = "[sites.hq]\nprovider = \"sftp\"\nhost = \"sftp.studio.example\"\nroot = \"/projects\"\nauth = \"password\"\n\
                  password = \"file:/etc/backlot/everybody.secret\"\n[projects.demo]\nremote-site = \"hq\"\n";
    machine.write("etc/config.toml", studio);
    machine.write_user(
        "[sites.hq]\nuser = \"ada\"\npassword = \"env:MY_PASSWORD\"\nroot = \"/freelance/projects\"\n\
         [sites.desk]\nprovider = \"local\"\nroot = \"/mnt/desk\"\n[projects.demo]\nremote-site = \"desk\"\n",
    );
    let hq = |config: &backlot_config::Config| match &config.sites["hq"].provider {
        ProviderSettings::Sftp(sftp) => sftp.clone(),
        _ => panic!("hq is a server"),
    };
    let config = machine.loader().load().unwrap().config;
    let sftp = hq(&config);
    assert_eq!(
        (sftp.host.as_str(), sftp.user.as_str(), sftp.root.as_str()),
        ("sftp.studio.example", "ada", "/freelance/projects")
    );
    assert_eq!(sftp.password, Some(SecretRef::Env("MY_PASSWORD".to_owned())));
    assert_eq!(
        config.projects["demo"].remote_site, "desk",
        "each user may have another remote site"
    );
    // Somebody else on the same machine.
    let other = machine.loader().home(machine.path("nobody")).load().unwrap().config;
    let sftp = hq(&other);
    assert_eq!(sftp.root, "/projects");
    assert_eq!(
        sftp.password,
        Some(SecretRef::File(PathBuf::from("/etc/backlot/everybody.secret")))
    );
    assert_eq!(other.projects["demo"].remote_site, "hq");
}

#[test]
fn ayons_variable_says_which_site_a_machine_is() {
    let machine = Machine::new();
    machine.write_user("[machine]\nsite-id = \"of-the-file\"\n");
    let id = |variables: &[(&str, &str)]| {
        let loaded = machine.loader().env(variables.iter().copied()).load().unwrap();
        let origin = loaded.origins.get("machine.site-id").to_string();
        (loaded.config.machine.site_id.unwrap(), origin)
    };
    assert_eq!(id(&[]).0, "of-the-file");
    assert_eq!(id(&[("AYON_SITE_ID", "")]).0, "of-the-file");
    assert_eq!(
        id(&[("AYON_SITE_ID", "wild-red-fox")]),
        ("wild-red-fox".to_owned(), "environment AYON_SITE_ID".to_owned())
    );
    for both in [
        [("AYON_SITE_ID", "wild-red-fox"), ("BACKLOT_MACHINE_SITE_ID", "farm-7")],
        [("BACKLOT_MACHINE_SITE_ID", "farm-7"), ("AYON_SITE_ID", "wild-red-fox")],
    ] {
        assert_eq!(id(&both).0, "farm-7", "our own is the nearer one");
    }
}

#[test]
fn the_service_has_its_times() {
    let config = config_of("[sync]\ncheck-interval = \"6h\"\nlease = \"2min\"");
    assert_eq!(config.sync.check_interval, Period::from_secs(6 * 3600));
    assert_eq!(config.sync.lease, Period::from_secs(120));
    assert_eq!(
        complaint_about("[sync]\nlease = \"10ms\""),
        "user:2:9: sync.lease: 10ms is outside 1s to 1h"
    );
}
