-- A hospital: bed monitors, observations, encounters, medication orders with notes. About 3.2 changes
-- in a transaction, 68 % of them updates, of about 3 columns each.
CREATE TABLE bed_monitor (id integer PRIMARY KEY, patient bigint NOT NULL, ward text NOT NULL,
    heart_rate integer, saturation integer, systolic integer, diastolic integer,
    temperature numeric(4, 1), status text NOT NULL, seen timestamptz NOT NULL);
CREATE TABLE encounter (id bigint PRIMARY KEY, patient bigint NOT NULL, ward text NOT NULL,
    bed integer, status text NOT NULL, acuity integer, attending text,
    updated_at timestamptz NOT NULL, updated_by integer NOT NULL);
CREATE TABLE observation (id bigint PRIMARY KEY, encounter bigint NOT NULL, code text NOT NULL,
    value numeric(8, 1), unit text, taken_at timestamptz NOT NULL, taken_by integer NOT NULL);
CREATE TABLE medication_order (id bigint PRIMARY KEY, encounter bigint NOT NULL, drug text NOT NULL,
    dose text NOT NULL, route text NOT NULL, status text NOT NULL, notes jsonb,
    ordered_at timestamptz NOT NULL, updated_at timestamptz NOT NULL);

-- 0.4 to 2 kB of what people write: set phrases, names, numbers.
CREATE FUNCTION notes() RETURNS jsonb LANGUAGE plpgsql AS $$
DECLARE
    phrases text[] := ARRAY['Patient tolerated the dose well', 'No adverse reaction observed',
        'Reduced renal function, dose adjusted', 'To be reviewed at the morning round',
        'Blood pressure to be checked before each dose', 'Given with food', 'Patient asleep, not woken',
        'Family informed of the change', 'Allergy to penicillin confirmed', 'Pain score',
        'Oxygen by nasal cannula, litres per minute', 'Repeat blood gas in hours',
        'Potassium slightly low, replaced', 'Patient mobilised to chair', 'Fluid balance in millilitres',
        'Discussed with the consultant on call', 'Second check by', 'Route changed on request of ward',
        'Nausea after the last dose', 'Withheld because of low heart rate',
        'Continue unchanged', 'Interaction with warfarin noted', 'Glucose before the meal',
        'Awaiting pharmacy', 'Written from a telephone order', 'Signed by'];
    names text[] := ARRAY['Okafor', 'Lindqvist', 'Haddad', 'Nakamura', 'Silva', 'Moreau', 'Novak', 'Reyes'];
    lines text[] := '{}';
BEGIN
    FOR i IN 1 .. 8 + floor(random() * 36)::integer LOOP
        lines := lines || (phrases[1 + floor(random() * 26)::integer] || ' '
            || CASE WHEN random() < 0.3 THEN names[1 + floor(random() * 8)::integer]
                    ELSE floor(random() * 1000)::text END);
    END LOOP;
    RETURN jsonb_build_object('author', names[1 + floor(random() * 8)::integer],
        'priority', floor(random() * 3), 'text', array_to_string(lines, '. '));
END $$;

INSERT INTO bed_monitor SELECT g, 100000 + g * 7, 'ward ' || g % 12, 70, 97, 120, 80, 36.8, 'normal',
    '2026-01-01 08:00Z' FROM generate_series(1, 400) g;
INSERT INTO encounter SELECT g, 100000 + g * 7, 'ward ' || g % 12, g % 400, 'admitted', 3, 'Okafor',
    '2026-01-01 08:00Z', 1 FROM generate_series(1, 2000) g;
INSERT INTO medication_order SELECT g, 1 + g % 2000, 'paracetamol', '500 mg', 'oral', 'active', notes(),
    '2026-01-01 08:00Z', '2026-01-01 08:00Z' FROM generate_series(1, 3000) g;

CREATE PROCEDURE work(transactions bigint, round bigint) LANGUAGE plpgsql AS $$
DECLARE
    drugs text[] := ARRAY['paracetamol', 'ibuprofen', 'amoxicillin', 'furosemide', 'enoxaparin',
        'metoprolol', 'insulin glargine', 'ondansetron', 'morphine', 'ceftriaxone'];
    codes text[] := ARRAY['heart-rate', 'saturation', 'temperature', 'pain', 'glucose', 'weight'];
    units text[] := ARRAY['1/min', '%', 'C', '', 'mmol/l', 'kg'];
    clock timestamptz := '2026-01-02 08:00Z'::timestamptz + round * interval '3 days';
    next_id bigint := round * 100000000;
    kind double precision;
    visit bigint;
    code integer;
BEGIN
    PERFORM setseed(0.5 / (1 + round));
    FOR t IN 1 .. transactions LOOP
        clock := clock + interval '1 millisecond' * floor(random() * 4000);
        kind := random();
        visit := 1 + floor(random() * 2000);
        IF kind < 0.40 THEN
            UPDATE bed_monitor SET heart_rate = 60 + floor(random() * 40),
                saturation = 92 + floor(random() * 8), seen = clock,
                temperature = CASE WHEN random() < 0.3 THEN 36 + floor(random() * 25) / 10.0
                    ELSE temperature END,
                systolic = CASE WHEN random() < 0.2 THEN 100 + floor(random() * 50) ELSE systolic END
            WHERE id IN (SELECT 1 + (t * 4 + round * 13 + g) % 400 FROM generate_series(0, 3) g);
        ELSIF kind < 0.69 THEN
            FOR i IN 1 .. 3 LOOP
                next_id := next_id + 1;
                code := 1 + floor(random() * 6);
                INSERT INTO observation VALUES (next_id, visit, codes[code],
                    floor(random() * 1000) / 10, units[code], clock, 1 + floor(random() * 60));
            END LOOP;
            UPDATE encounter SET acuity = 1 + floor(random() * 5), updated_at = clock,
                updated_by = 1 + floor(random() * 60) WHERE id = visit;
        ELSIF kind < 0.84 THEN
            next_id := next_id + 1;
            INSERT INTO medication_order VALUES (next_id, visit, drugs[1 + floor(random() * 10)::integer],
                (1 + floor(random() * 8)) * 125 || ' mg',
                CASE WHEN random() < 0.6 THEN 'oral' ELSE 'intravenous' END, 'active', notes(), clock, clock);
            UPDATE encounter SET status = 'in treatment', updated_at = clock,
                updated_by = 1 + floor(random() * 60) WHERE id = visit;
        ELSE
            UPDATE medication_order SET status = CASE WHEN random() < 0.5 THEN 'given' ELSE 'held' END,
                notes = notes(), updated_at = clock WHERE id = 1 + visit * 7919 % 3000;
        END IF;
        COMMIT;
    END LOOP;
END $$;
