-- Phase 5 is still to be written.
/* ; */
;
