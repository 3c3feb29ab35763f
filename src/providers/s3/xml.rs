//! What S3 stores answer in XML. Pure.
//!
//! Namespaces are not looked at: stores differ in them.

use roxmltree::{Document, Node};

/// A page of a listing.
#[derive(Clone, PartialEq, Eq, Debug, Default)]
pub(super) struct Page {
    pub(super) objects: Vec<Object>,
    /// What the keys below one more `/` have in common, that `/` included.
    pub(super) prefixes: Vec<String>,
    /// Where the next page begins; `None`: this is the last.
    pub(super) next: Option<String>,
}

/// An object of a listing.
#[derive(Clone, PartialEq, Eq, Debug)]
pub(super) struct Object {
    pub(super) key: String,
    /// Without quotes.
    pub(super) etag: String,
    pub(super) size: u64,
    /// Seconds since 1970.
    pub(super) modified: i64,
}

fn find<'a>(node: Node<'a, 'a>, name: &str) -> Option<Node<'a, 'a>> {
    node.children().find(|child| child.tag_name().name() == name)
}

fn text<'a>(node: Node<'a, 'a>, name: &str) -> Option<&'a str> {
    find(node, name).and_then(|child| child.text())
}

/// Returns an etag without its quotes.
pub(super) fn plain_etag(etag: &str) -> &str {
    etag.trim().trim_matches('"')
}

/// Reads an error: its code and its message.
pub(super) fn error(answer: &str) -> Option<(String, String)> {
    let document = Document::parse(answer).ok()?;
    let root = document.root_element();
    if root.tag_name().name() != "Error" {
        return None;
    }
    let part = |name| text(root, name).unwrap_or_default().trim().to_owned();
    Some((part("Code"), part("Message")))
}

/// Returns the text of an element right below the root.
pub(super) fn value(answer: &str, name: &str) -> Option<String> {
    let document = Document::parse(answer).ok()?;
    text(document.root_element(), name).map(str::to_owned)
}

/// Reads a page of `ListObjectsV2`, asked for with `encoding-type=url`. `None`: it is none, or a part of one.
pub(super) fn page(answer: &str) -> Option<Page> {
    let document = Document::parse(answer).ok()?;
    let root = document.root_element();
    if root.tag_name().name() != "ListBucketResult" {
        return None;
    }
    let encoded = text(root, "EncodingType").is_some_and(|kind| kind == "url");
    let decode = |key: &str| if encoded { decoded(key) } else { Some(key.to_owned()) };
    let mut page = Page::default();
    for child in root.children() {
        match child.tag_name().name() {
            "Contents" => page.objects.push(Object {
                key: decode(text(child, "Key")?)?,
                etag: plain_etag(text(child, "ETag").unwrap_or_default()).to_owned(),
                size: text(child, "Size")?.trim().parse().ok()?,
                modified: date(text(child, "LastModified")?)?,
            }),
            "CommonPrefixes" => page.prefixes.push(decode(text(child, "Prefix")?)?),
            _ => {}
        }
    }
    if text(root, "IsTruncated").is_some_and(|word| word.trim() == "true") {
        // Without this a listing would end early and look whole.
        page.next = Some(
            text(root, "NextContinuationToken")
                .filter(|token| !token.is_empty())?
                .to_owned(),
        );
    }
    Some(page)
}

fn date(text: &str) -> Option<i64> {
    text.trim().parse().ok().map(jiff::Timestamp::as_second)
}

/// Undoes what forms do to text: `+` for a space, `%` and two digits for bytes.
fn decoded(text: &str) -> Option<String> {
    let mut out = Vec::with_capacity(text.len());
    let mut bytes = text.bytes();
    while let Some(byte) = bytes.next() {
        out.push(match byte {
            b'+' => b' ',
            b'%' => {
                let mut digit = || char::from(bytes.next()?).to_digit(16);
                u8::try_from(digit()? * 16 + digit()?).ok()?
            }
            byte => byte,
        });
    }
    String::from_utf8(out).ok()
}

/// Writes the list of parts, in their order, that a completion sends.
pub(super) fn parts<'a>(etags: impl Iterator<Item = (u32, &'a str)>) -> String {
    let mut body = String::from("<CompleteMultipartUpload xmlns=\"http://s3.amazonaws.com/doc/2006-03-01/\">");
    for (number, etag) in etags {
        body.push_str(&format!(
            "<Part><PartNumber>{number}</PartNumber><ETag>\"{}\"</ETag></Part>",
            escaped(etag)
        ));
    }
    body.push_str("</CompleteMultipartUpload>");
    body
}

fn escaped(text: &str) -> String {
    text.replace('&', "&amp;").replace('<', "&lt;").replace('>', "&gt;")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_page_with_names_that_xml_can_t_hold() {
        let answer = r#"<?xml version="1.0"?><ListBucketResult xmlns="http://s3.amazonaws.com/doc/2006-03-01/">
            <EncodingType>url</EncodingType><IsTruncated>true</IsTruncated><NextContinuationToken>t+</NextContinuationToken>
            <Contents><Key>a/b%0Ac+d%2B</Key><ETag>&quot;abc-2&quot;</ETag><Size>12</Size>
            <LastModified>2009-10-12T17:50:30.500Z</LastModified></Contents>
            <CommonPrefixes><Prefix>a/%C3%A9/</Prefix></CommonPrefixes></ListBucketResult>"#;
        let page = page(answer).unwrap();
        assert_eq!(page.objects[0].key, "a/b\nc d+");
        assert_eq!(page.objects[0].etag, "abc-2");
        assert_eq!(page.objects[0].modified, 1_255_369_830);
        assert_eq!(page.prefixes, ["a/é/"]);
        assert_eq!(page.next.as_deref(), Some("t+"));
    }

    #[test]
    fn a_page_that_breaks_off_is_none() {
        let cut = "<ListBucketResult><IsTruncated>true</IsTruncated></ListBucketResult>";
        assert_eq!(page(cut), None, "more to come, and no word how");
        assert_eq!(page("<ListBucketResult><Contents><Key>a</Key>"), None);
        assert_eq!(page("<html>hello</html>"), None);
        assert_eq!(decoded("%4"), None);
    }

    #[test]
    fn errors_are_told_from_answers() {
        let text = "<Error><Code>SlowDown</Code><Message>less</Message></Error>";
        assert_eq!(error(text), Some(("SlowDown".to_owned(), "less".to_owned())));
        assert_eq!(error("<CompleteMultipartUploadResult/>"), None);
        assert_eq!(error(""), None);
    }
}
