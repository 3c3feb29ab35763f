//! A folder of a WebDAV server as a site.
