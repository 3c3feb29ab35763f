-- Objects that a row names and that may still bear the label of a copy, which lets them go where no row names them. It is taken off
-- before anything relies on them.
CREATE TABLE labelled (object INTEGER PRIMARY KEY) STRICT;
