-- What pgbench does, ten times its smallest size.
CREATE TABLE branches (bid integer PRIMARY KEY, bbalance integer, filler char(88));
CREATE TABLE tellers (tid integer PRIMARY KEY, bid integer, tbalance integer, filler char(84));
CREATE TABLE accounts (aid integer PRIMARY KEY, bid integer, abalance integer, filler char(84));
CREATE TABLE history (hid bigint PRIMARY KEY, tid integer, bid integer, aid integer, delta integer,
    mtime timestamp);

INSERT INTO branches SELECT g, 0, NULL FROM generate_series(1, 10) g;
INSERT INTO tellers SELECT g, 1 + (g - 1) / 10, 0, NULL FROM generate_series(1, 100) g;
INSERT INTO accounts SELECT g, 1 + (g - 1) / 10000, 0, '' FROM generate_series(1, 100000) g;

CREATE PROCEDURE work(transactions bigint, round bigint) LANGUAGE plpgsql AS $$
DECLARE
    account integer;
    teller integer;
    branch integer;
    amount integer;
BEGIN
    PERFORM setseed(0.5 / (1 + round));
    FOR t IN 1 .. transactions LOOP
        account := 1 + floor(random() * 100000);
        teller := 1 + floor(random() * 100);
        branch := 1 + floor(random() * 10);
        amount := floor(random() * 10001) - 5000;
        UPDATE accounts SET abalance = abalance + amount WHERE aid = account;
        UPDATE tellers SET tbalance = tbalance + amount WHERE tid = teller;
        UPDATE branches SET bbalance = bbalance + amount WHERE bid = branch;
        INSERT INTO history VALUES (round * 100000000 + t, teller, branch, account, amount,
            clock_timestamp());
        COMMIT;
    END LOOP;
END $$;
