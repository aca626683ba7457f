// Package deployment_test is the day of the rollout: maintenance mode, and all steps of the checklist in their order.
package deployment_test
