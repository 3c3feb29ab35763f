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
    /// Seconds since 1970.
    pub(super) modified: Option<i64>,
    /// As headers have it, quotes included.
    pub(super) etag: Option<String>,
    pub(super) available: Option<u64>,
    pub(super) used: Option<u64>,
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
    for propstat in named(response, "propstat") {
        let status = named(propstat, "status").next().and_then(|node| node.text());
        // What is missing is told apart, with a status of its own.
        if status.is_some_and(|text| text.split_whitespace().nth(1) != Some("200")) {
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
