//! What callers rely on, one promise each.

use super::*;
use crate::state::Tree;

#[test]
fn a_first_listing_is_numbered_in_the_order_of_names() {
    let t = Fixture::new();
    let diff = t.list(t.root, &[file("b", 2), dir("c"), file("a", 1), link("d", "a")]);
    assert!(diff.first);
    assert_eq!(diff.dir, t.root);
    let names: Vec<_> = diff.added.iter().map(|(name, _)| name.to_string()).collect();
    assert_eq!(names, ["a", "b", "c", "d"]);
    assert_eq!(diff.subfolders, [(name("c"), diff.added[2].1)]);

    let tree = Tree::new(t.store.clone());
    let children = tree.children(t.root, 0, 10).unwrap();
    assert!(children.is_sorted_by_key(|child| (child.cookie, child.name.clone())));
    assert_eq!(children[3].node.kind, EntryKind::Symlink);
    assert_eq!(tree.link_target(children[3].node.ino).unwrap(), Some(b"a".to_vec()));
    assert_eq!(tree.children(t.root, children[1].cookie, 10).unwrap(), children[2..]);
    assert_eq!(tree.resolve(&path("demo/b")).unwrap().unwrap().size, 2);
    assert_eq!(tree.path_of(children[1].node.ino).unwrap().unwrap(), path("demo/b"));
    t.check();
}
