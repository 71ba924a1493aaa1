-- How many events a job's effect was made of.
SELECT n FROM scratch.effect WHERE job_id = :job
