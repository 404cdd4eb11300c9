-- The same at every site. Text keys, because numbers from a sequence would be the same at two sites.
CREATE TABLE bed (
    id text PRIMARY KEY,
    patient text,
    diet text,
    note text
);
