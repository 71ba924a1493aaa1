-- Purpose: numbers for rows to be inserted, so that those of one set can name each other.
SELECT
    ARRAY(SELECT nextval('scheduler.lead_lead_id_seq') FROM generate_series(1, :leads)) AS leads,
    ARRAY(SELECT nextval('scheduler.enrollment_enrollment_id_seq')
        FROM generate_series(1, :enrollments)) AS enrollments,
    ARRAY(SELECT nextval('scheduler.send_job_job_id_seq')
        FROM generate_series(1, :jobs)) AS jobs
