//! What WebDAV servers answer to PROPFIND. Pure.

use roxmltree::{Document, Node};

use crate::providers::web::http_date;

/// Asks for what an entry is.
pub(super) const ASK: &str = "<?xml version=\"1.0\" encoding=\"utf-8\"?><propfind xmlns=\"DAV:\"><prop><resourcetype/>\
     <getcontentlength/><getlastmodified/><getetag/></prop></propfind>";
/// Asks for the space at a server.
pub(super) const ASK_SPACE: &str = "<?xml version=\"1.0\" encoding=\"utf-8\"?><propfind xmlns=\"DAV:\"><prop>\
     <quota-available-bytes/><quota-used-bytes/></prop></propfind>";

/// One entry of an answer.
#[derive(Clone, PartialEq, Eq, Debug, Default)]
pub(super) struct Found {
    /// Where it is: the path of its address, decoded, without a slash at its end.
    pub(super) path: Vec<u8>,
    pub(super) is_dir: bool,
    pub(super) size: Option<u64>,
    /// The status in place of what would tell what it is.
    pub(super) withheld: Option<u16>,
    /// Seconds since 1970.
    pub(super) modified: Option<i64>,
    /// As headers have it, quotes included.
    pub(super) etag: Option<String>,
    pub(super) available: Option<u64>,
    pub(super) used: Option<u64>,
}

impl Found {
    /// Says whether the answer tells what it is: a folder, or a file of so many bytes. Nothing else may be made of it.
    pub(super) fn is_told(&self) -> bool {
        self.withheld.is_none() && (self.is_dir || self.size.is_some())
    }

    /// Says whether the server names it and denies that it is there.
    pub(super) fn is_gone(&self) -> bool {
        !self.is_told() && matches!(self.withheld, Some(404 | 410))
    }
}

/// Returns the number in a line as `HTTP/1.1 403 Forbidden`.
fn status(node: Node<'_, '_>) -> Option<u16> {
    node.text()?.split_whitespace().nth(1)?.parse().ok()
}

/// Returns the first status in an answer that says no.
pub(super) fn refusal(answer: &str) -> Option<u16> {
    let document = Document::parse(answer).ok()?;
    let mut all = document.descendants().filter(|node| node.tag_name().name() == "status");
    all.find_map(|node| status(node).filter(|status| *status >= 300))
}

fn named<'a>(node: Node<'a, 'a>, name: &'static str) -> impl Iterator<Item = Node<'a, 'a>> {
    node.children().filter(move |child| child.tag_name().name() == name)
}

/// Reads an answer; `None`: it is none.
pub(super) fn multistatus(answer: &str) -> Option<Vec<Found>> {
    let document = Document::parse(answer).ok()?;
    let root = document.root_element();
    if root.tag_name().name() != "multistatus" {
        return None;
    }
    named(root, "response").map(found).collect()
}

fn found(response: Node<'_, '_>) -> Option<Found> {
    let href = named(response, "href").next()?.text()?.trim();
    let mut found = Found {
        path: decoded(path_of(href))?,
        ..Found::default()
    };
    while found.path.last() == Some(&b'/') {
        found.path.pop();
    }
    let own = named(response, "status").next().and_then(status);
    found.withheld = own.filter(|status| !(200..300).contains(status));
    for propstat in named(response, "propstat") {
        let status = named(propstat, "status").next().map(|node| status(node).unwrap_or(0));
        // What is missing is told apart, with a status of its own.
        if let Some(status) = status.filter(|status| *status != 200) {
            let matters = |node: Node<'_, '_>| matches!(node.tag_name().name(), "resourcetype" | "getcontentlength");
            let mut properties = named(propstat, "prop").flat_map(|prop| prop.children());
            // A property that is not there is no secret.
            if status != 404 && properties.any(matters) {
                found.withheld.get_or_insert(status);
            }
            continue;
        }
        for property in named(propstat, "prop").flat_map(|prop| prop.children()) {
            let text = property.text().unwrap_or_default().trim();
            match property.tag_name().name() {
                "resourcetype" => found.is_dir |= named(property, "collection").next().is_some(),
                "getcontentlength" => found.size = text.parse().ok(),
                "getlastmodified" => found.modified = http_date(text),
                "getetag" => found.etag = etag(text),
                "quota-available-bytes" => found.available = text.parse().ok(),
                "quota-used-bytes" => found.used = text.parse().ok(),
                _ => {}
            }
        }
    }
    // Of a folder nothing else matters.
    if found.is_dir && own.is_none_or(|status| (200..300).contains(&status)) {
        found.withheld = None;
    }
    Some(found)
}

/// Writes an etag as headers have it: some servers leave the quotes out. `None`: there is none.
pub(super) fn etag(text: &str) -> Option<String> {
    let text = text.trim();
    let (weak, text) = match text.strip_prefix("W/") {
        Some(rest) => ("W/", rest),
        None => ("", text),
    };
    let plain = text.trim_matches('"');
    (!plain.is_empty()).then(|| format!("{weak}\"{plain}\""))
}

/// Returns the path of an address, or of one that is a path already.
fn path_of(href: &str) -> &str {
    match href.split_once("://") {
        Some((_, rest)) => rest.find('/').map_or("/", |at| &rest[at..]),
        None => href,
    }
}

fn decoded(text: &str) -> Option<Vec<u8>> {
    let mut out = Vec::with_capacity(text.len());
    let mut bytes = text.bytes();
    while let Some(byte) = bytes.next() {
        out.push(match byte {
            b'%' => {
                let mut digit = || char::from(bytes.next()?).to_digit(16);
                u8::try_from(digit()? * 16 + digit()?).ok()?
            }
            byte => byte,
        });
    }
    Some(out)
}

#[cfg(test)]
mod tests {
    use super::*;

    /// An answer with one entry.
    fn one(inside: &str) -> Found {
        let answer = format!(
            r#"<D:multistatus xmlns:D="DAV:"><D:response><D:href>/a</D:href>{inside}</D:response></D:multistatus>"#
        );
        multistatus(&answer).unwrap().remove(0)
    }

    fn propstat(properties: &str, status: &str) -> String {
        format!("<D:propstat><D:prop>{properties}</D:prop><D:status>HTTP/1.1 {status}</D:status></D:propstat>")
    }

    #[test]
    fn an_entry_that_is_withheld_is_no_empty_file() {
        let all = "<D:resourcetype/><D:getcontentlength/>";
        for (inside, withheld) in [
            ("<D:status>HTTP/1.1 403 Forbidden</D:status>".to_owned(), Some(403)),
            ("<D:status>HTTP/1.1 423 Locked</D:status>".to_owned(), Some(423)),
            (propstat(all, "500 Internal Server Error"), Some(500)),
            (propstat(all, "403 Forbidden"), Some(403)),
            (propstat(all, "404 Not Found"), None),
            (String::new(), None),
            // A file of which nobody knows how long it is.
            (propstat("<D:resourcetype/>", "200 OK"), None),
            (
                propstat("<D:resourcetype/><D:getcontentlength>-1</D:getcontentlength>", "200 OK"),
                None,
            ),
            // Perhaps a folder.
            (
                propstat("<D:getcontentlength>4096</D:getcontentlength>", "200 OK")
                    + &propstat("<D:resourcetype/>", "403 Forbidden"),
                Some(403),
            ),
        ] {
            let found = one(&inside);
            assert_eq!((found.is_told(), found.withheld), (false, withheld), "{inside}");
        }
        assert!(one("<D:status>HTTP/1.1 404 Not Found</D:status>").is_gone());
        assert!(!one("<D:status>HTTP/1.1 403 Forbidden</D:status>").is_gone());
    }

    #[test]
    fn what_is_enough_is_taken() {
        let folder = one(&propstat("<D:resourcetype><D:collection/></D:resourcetype>", "200 OK"));
        assert!(folder.is_told() && folder.is_dir);
        let no_length = propstat("<D:getcontentlength/>", "403 Forbidden");
        let folder = one(&(no_length + &propstat("<D:resourcetype><D:collection/></D:resourcetype>", "200 OK")));
        assert!(folder.is_told() && folder.is_dir);
        // No type, or none that the server knows of.
        let length = propstat("<D:getcontentlength>12</D:getcontentlength>", "200 OK");
        for rest in [String::new(), propstat("<D:resourcetype/>", "404 Not Found")] {
            let file = one(&(length.clone() + &rest));
            assert!(file.is_told() && !file.is_dir && file.size == Some(12), "{rest}");
        }
        let secret = propstat("<D:getetag/>", "403 Forbidden");
        assert!(
            one(&(length + &secret)).is_told(),
            "of what is withheld nothing matters"
        );
        let no_status = "<D:propstat><D:prop><D:getcontentlength>1</D:getcontentlength></D:prop></D:propstat>";
        assert!(one(no_status).is_told());
    }

    #[test]
    fn the_first_refusal_of_several_answers() {
        let answer = r#"<D:multistatus xmlns:D="DAV:"><D:response><D:href>/a</D:href><D:status>HTTP/1.1 200 OK</D:status>
            </D:response><D:response><D:href>/b</D:href><D:status>HTTP/1.1 423 Locked</D:status></D:response></D:multistatus>"#;
        assert_eq!(refusal(answer), Some(423));
        assert_eq!(refusal("<html/>"), None);
        assert_eq!(refusal("no"), None);
    }

    #[test]
    fn entries_of_servers_that_differ() {
        let answer = r#"<?xml version="1.0"?><D:multistatus xmlns:D="DAV:">
            <D:response><D:href>http://dav.example/a%20b/</D:href><D:propstat><D:prop>
            <D:resourcetype><D:collection xmlns:D="DAV:"/></D:resourcetype></D:prop><D:status>HTTP/1.1 200 OK</D:status>
            </D:propstat><D:propstat><D:prop><D:getetag/></D:prop><D:status>HTTP/1.1 404 Not Found</D:status></D:propstat>
            </D:response>
            <D:response><D:href>/a%20b/%C3%A9+</D:href><D:propstat><D:prop><D:resourcetype/>
            <D:getcontentlength>12</D:getcontentlength><D:getetag>W/"x"</D:getetag>
            <D:getlastmodified>Sun, 06 Nov 1994 08:49:37 GMT</D:getlastmodified></D:prop>
            <D:status>HTTP/1.1 200 OK</D:status></D:propstat></D:response></D:multistatus>"#;
        let all = multistatus(answer).unwrap();
        assert_eq!(
            (all[0].path.as_slice(), all[0].is_dir, &all[0].etag),
            (&b"/a b"[..], true, &None)
        );
        assert_eq!(all[1].path, "/a b/é+".as_bytes());
        assert_eq!((all[1].size, all[1].modified), (Some(12), Some(784_111_777)));
        assert_eq!(all[1].etag.as_deref(), Some("W/\"x\""));
        assert_eq!(etag("abc"), Some("\"abc\"".to_owned()));
        assert_eq!(multistatus("<html/>"), None);
        assert_eq!(multistatus(&answer[..200]), None);
    }
}
